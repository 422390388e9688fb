# EQL (arXiv 2003.05176), with the paper's lambda. Tail ratio: 9.09 %.
_base_ = [
    "../_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v0.5.py",
    "../_base_/schedules/schedule_25e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=_base_.num_classes,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLoss", lambda_=1.76e-3),
        )
    )
)
