_base_ = [
    "../_base_/models/atss_r18_fpn_mini.py",
    "../_base_/datasets/minilvis.py",
    "../_base_/schedules/schedule_minilvis.py",
    "../_base_/minilvis_runtime.py",
]

model = dict(bbox_head=dict(num_classes=_base_.num_classes))

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
