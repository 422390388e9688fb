# MiniLVIS as data of your own, made by `python tools/datasets/convert_minilvis.py coco`.
_base_ = "./minilvis.py"

data_root = "{{$MMDET_EQL_DATA:data}}/minilvis_coco/"

train_dataloader = dict(
    dataset=dict(
        data_root=data_root, ann_file="annotations/train.json", data_prefix=dict(img="train/")
    )
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/val.json", data_prefix=dict(img="val/"))
)
test_dataloader = val_dataloader

val_evaluator = dict(
    ann_file=data_root + "annotations/val.json",
    train_ann_file=data_root + "annotations/train.json",
)
test_evaluator = val_evaluator
