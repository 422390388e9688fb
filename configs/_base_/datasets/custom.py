# A dataset of your own, in COCO or LVIS format; set what follows, and see docs/custom-data.md.
_base_ = "./lvis_format_instance.py"

# The training set's classes, which tools/train.py counts; a number is compared with it.
num_classes = None
data_root = "{{$MMDET_EQL_DATA:data}}/custom/"

train_dataloader = dict(
    dataset=dict(
        data_root=data_root, ann_file="annotations/train.json", data_prefix=dict(img="train/")
    )
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/val.json", data_prefix=dict(img="val/"))
)
test_dataloader = val_dataloader

# The training set's counts sort the categories into rare, common and frequent ones.
val_evaluator = dict(
    ann_file=data_root + "annotations/val.json",
    train_ann_file=data_root + "annotations/train.json",
)
test_evaluator = val_evaluator
