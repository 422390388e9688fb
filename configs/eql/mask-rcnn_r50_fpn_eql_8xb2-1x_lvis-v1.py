# EQL (arXiv 2003.05176), with the lambda that EQL v2's authors trained it with on LVIS v1.
_base_ = [
    "../_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1.py",
    "../_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=_base_.num_classes,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLoss", lambda_=1.1e-3),
        )
    )
)
