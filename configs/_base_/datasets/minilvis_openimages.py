# MiniLVIS in the layout of Open Images, made by
# `python tools/datasets/convert_minilvis.py openimages`.
_base_ = "./openimages-challenge2019.py"

num_classes = 200
image_scale = (160, 160)
data_root = "{{$MMDET_EQL_DATA:data}}/minilvis_openimages/"

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = image_scale
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = image_scale

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
