# Made by `python tools/datasets/make_minilvis_crops.py`.
num_classes = 100
dataset_type = "MiniLVISCrops"
data_root = "{{$MMDET_EQL_DATA:data}}"

train_pipeline = [
    dict(type="PaddedRandomCrop", padding=4),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackLabelledImage"),
]
test_pipeline = [dict(type="PackLabelledImage")]

# All of it is in memory: worker processes would only cost time.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="minilvis_crops.npz",
        split="train",
        imbalance_factor=100,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="minilvis_crops.npz",
        split="val",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
