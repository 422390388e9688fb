# V3Det: boxes of 13,204 categories, for each image of all of them; docs/datasets.md says where its
# files lie.
_base_ = "./lvis_format_instance.py"

num_classes = 13204
data_root = "{{$MMDET_EQL_DATA:data}}/V3Det/"

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/v3det_2023_v1_train.json",
        filter_cfg=dict(min_size=4),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/v3det_2023_v1_val.json")
)
test_dataloader = val_dataloader

# The training set's counts sort the categories into rare, common and frequent ones.
val_evaluator = dict(
    ann_file=data_root + "annotations/v3det_2023_v1_val.json",
    train_ann_file=data_root + "annotations/v3det_2023_v1_train.json",
    metric="bbox",
)
test_evaluator = val_evaluator
