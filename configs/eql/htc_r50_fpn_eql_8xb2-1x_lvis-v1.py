_base_ = [
    "../_base_/models/htc_r50_fpn.py",
    "../_base_/datasets/lvis_v1.py",
    "../_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadPolygonAnnotations", with_bbox=True, with_mask=True, with_seg=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    dataset=dict(data_prefix=dict(seg="stuffthingmaps/"), pipeline=train_pipeline)
)

model = dict(
    roi_head=dict(
        bbox_head=[
            dict(
                stage,
                num_classes=_base_.num_classes,
                cls_predictor_cfg=dict(type="PriorLinear"),
                loss_cls=dict(type="EqualizationLoss", lambda_=1.1e-3),
            )
            for stage in _base_.model.roi_head.bbox_head
        ]
    )
)
