_base_ = [
    "../_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1.py",
    "../_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=[
            dict(
                stage,
                num_classes=_base_.num_classes,
                cls_predictor_cfg=dict(type="PriorLinear"),
                loss_cls=dict(type="EqualizationLoss", lambda_=0),
            )
            for stage in _base_.model.roi_head.bbox_head
        ]
    )
)
