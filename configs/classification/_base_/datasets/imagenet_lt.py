# Lists and images as docs/classification.md says.
num_classes = 1000
dataset_type = "ImageListDataset"
data_root = "{{$MMDET_EQL_DATA:data}}/imagenet_lt/"

train_pipeline = [
    dict(type="LoadVerifiedImage"),
    dict(type="RandomResizedCrop", size=224),
    dict(type="RandomFlip", prob=0.5),
    dict(type="ColorJitter", strength=0.4),
    dict(type="PackLabelledImage"),
]
test_pipeline = [
    dict(type="LoadVerifiedImage"),
    # The short side becomes 256 pixels.
    dict(type="mmdet.Resize", scale=(100000, 256), keep_ratio=True),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackLabelledImage"),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ImageNet_LT_train.txt",
        data_prefix=dict(img="images"),
        num_classes=num_classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ImageNet_LT_val.txt",
        data_prefix=dict(img="images"),
        num_classes=num_classes,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="ImageNet_LT_test.txt",
        data_prefix=dict(img="images"),
        num_classes=num_classes,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
