_base_ = [
    "../_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/datasets/openimages-challenge2019.py",
    "../_base_/schedules/schedule_1x_openimages.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=_base_.num_classes,
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLoss", lambda_=0),
        )
    )
)
