# Open Images Challenge 2019, detection; docs/open-images.md says where its files lie.
num_classes = 500
data_root = "{{$MMDET_EQL_DATA:data}}/OpenImages/"
backend_args = None

train_pipeline = [
    dict(type="LoadVerifiedImage", backend_args=backend_args),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1024, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    # LoadVerifiedImage, by the name that MMDetection's DetInferencer looks for.
    dict(type="mmdet_eql.LoadImageFromFile", backend_args=backend_args),
    dict(type="Resize", scale=(1024, 800), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=(
            *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            # What the metric compares with.
            *("instances", "image_level_labels"),
        ),
    ),
]

train_dataloader = dict(
    batch_size=2,
    # Each worker would hold the annotations of 1.7 million images.
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="CountedOpenImagesChallengeDataset",
        data_root=data_root,
        ann_file="challenge2019/challenge-2019-train-detection-bbox.txt",
        data_prefix=dict(img="OpenImages/train/"),
        label_file="challenge2019/cls-label-description.csv",
        hierarchy_file="challenge2019/class_label_tree.np",
        meta_file="challenge2019/challenge-2019-train-metas.pkl",
        pipeline=train_pipeline,
        backend_args=backend_args,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CountedOpenImagesChallengeDataset",
        data_root=data_root,
        ann_file="challenge2019/challenge-2019-validation-detection-bbox.txt",
        data_prefix=dict(img="OpenImages/"),
        label_file="challenge2019/cls-label-description.csv",
        hierarchy_file="challenge2019/class_label_tree.np",
        meta_file="challenge2019/challenge-2019-validation-metas.pkl",
        image_level_ann_file="challenge2019/challenge-2019-validation-detection-human-imagelabels.csv",
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="OpenImagesGroupMetric",
    train_ann_file=data_root + "challenge2019/challenge-2019-train-detection-bbox.txt",
    backend_args=backend_args,
)
test_evaluator = val_evaluator
