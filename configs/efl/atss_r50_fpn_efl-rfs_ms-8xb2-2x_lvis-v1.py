_base_ = [
    "../_base_/models/atss_r50_fpn.py",
    "../_base_/datasets/lvis_v1.py",
    "../_base_/schedules/schedule_2x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    bbox_head=dict(num_classes=_base_.num_classes, loss_cls=dict(type="EqualizedFocalLoss"))
)

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type="RepeatFactorSampler", repeat_threshold=1e-3),
    dataset=dict(pipeline=train_pipeline),
)

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator

tta_model = dict(
    _delete_=True,
    type="DetTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=300),
)
