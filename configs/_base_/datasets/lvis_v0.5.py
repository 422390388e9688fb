_base_ = "./lvis_format_instance.py"

num_classes = 1230
data_root = "{{$MMDET_EQL_DATA:data}}/lvis_v0.5/"

train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="annotations/lvis_v0.5_train.json")
)
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file="annotations/lvis_v0.5_val.json"))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + "annotations/lvis_v0.5_val.json")
test_evaluator = val_evaluator
