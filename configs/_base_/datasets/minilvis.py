# Made by `python tools/datasets/make_minilvis.py`.
_base_ = "./lvis_format_instance.py"

num_classes = 200
data_root = "{{$MMDET_EQL_DATA:data}}/minilvis/"

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(type="LoadPolygonAnnotations", with_bbox=True, with_mask=True),
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
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
tta_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=_base_.backend_args),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(size, size), keep_ratio=True) for size in (160, 128, 192)],
            [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=(
                        *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                        *("flip", "flip_direction"),
                    ),
                )
            ],
        ],
    ),
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
