# Boxes alone, for annotations without masks.
_base_ = "./mask-rcnn_r50_fpn_eql_8xb2-1x_custom.py"

model = dict(type="FasterRCNN", roi_head=dict(mask_roi_extractor=None, mask_head=None))

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=False),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
