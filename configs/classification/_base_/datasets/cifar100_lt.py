# Unpack cifar-100-python.tar.gz in data/cifar (see docs/classification.md).
num_classes = 100
data_root = "{{$MMDET_EQL_DATA:data}}/cifar"

train_pipeline = [
    dict(type="PaddedRandomCrop", padding=4),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackLabelledImage"),
]
test_pipeline = [dict(type="PackLabelledImage")]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="LongTailedCIFAR100",
        data_root=data_root,
        split="train",
        imbalance_factor=100,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="LongTailedCIFAR100",
        data_root=data_root,
        split="test",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
