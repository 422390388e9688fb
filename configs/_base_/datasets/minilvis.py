# Made by `python tools/datasets/make_minilvis.py`.
_base_ = "./lvis_format_instance.py"

num_classes = 200
image_scale = (160, 160)
data_root = "{{$MMDET_EQL_DATA:data}}/minilvis/"

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type="Resize", scale=(size, size), keep_ratio=True) for size in (160, 128, 192)
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    # All images are square; and without a batch sampler a resumed run skips ahead at once.
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/minilvis_train.json",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/minilvis_val.json",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + "annotations/minilvis_val.json")
test_evaluator = val_evaluator
