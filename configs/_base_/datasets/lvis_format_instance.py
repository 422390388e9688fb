# Instance segmentation on a dataset in LVIS format; the files beside this one say where it lies.
backend_args = None

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=backend_args),
    dict(type="LoadPolygonAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# The metric reads ground truth from the annotation file: nothing of it is decoded here.
test_pipeline = [
    # LoadVerifiedImage, by the name that MMDetection's DetInferencer looks for.
    dict(type="mmdet_eql.LoadImageFromFile", backend_args=backend_args),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

# Test-time augmentation, for `tools/test.py --tta`: three scales, each as it is and mirrored. The
# merged boxes go through the NMS of the model's test_cfg.rcnn.
tta_model = dict(type="InstanceTTAModel")

tta_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=backend_args),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=scale, keep_ratio=True)
                for scale in ((1333, 800), (1067, 640), (1600, 960))
            ],
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
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="LVISFormatDataset",
        data_prefix=dict(img=""),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
        backend_args=backend_args,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="LVISFormatDataset",
        data_prefix=dict(img=""),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="LVISFastMetric", metric=["bbox", "segm"], backend_args=backend_args)
test_evaluator = val_evaluator
