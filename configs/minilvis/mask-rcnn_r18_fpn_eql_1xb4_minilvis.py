_base_ = [
    "../_base_/models/mask-rcnn_r18_fpn_mini.py",
    "../_base_/datasets/minilvis.py",
    "../_base_/schedules/schedule_minilvis.py",
    "../_base_/minilvis_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=_base_.num_classes,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLoss", lambda_=2.2e-3),
        )
    )
)
