# MiniLVIS in the layout of Open Images, made by
# `python tools/datasets/convert_minilvis.py openimages`.
_base_ = "./openimages-challenge2019.py"

num_classes = 200
data_root = "{{$MMDET_EQL_DATA:data}}/minilvis_openimages/"

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    # LoadVerifiedImage, by the name that MMDetection's DetInferencer looks for.
    dict(type="mmdet_eql.LoadImageFromFile", backend_args=_base_.backend_args),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=(
            *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            *("instances", "image_level_labels"),
        ),
    ),
]

train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    # All images are square.
    batch_sampler=None,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    train_ann_file=data_root + "challenge2019/challenge-2019-train-detection-bbox.txt"
)
test_evaluator = val_evaluator
