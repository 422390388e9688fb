# EQL with image-level labels (section 4.2 of the paper), which the official code leaves out.
_base_ = "./mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadPolygonAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackLVISInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

model = dict(
    roi_head=dict(
        bbox_head=dict(type="ImageLevelShared2FCBBoxHead", loss_cls=dict(image_level_labels=True))
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(type="ImageLevelLabelSampler"))),
)
