_base_ = "./imagenet_lt.py"

num_classes = 365
data_root = "{{$MMDET_EQL_DATA:data}}/places_lt/"

train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="Places_LT_train.txt", num_classes=num_classes)
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="Places_LT_val.txt", num_classes=num_classes)
)
test_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file="Places_LT_test.txt", num_classes=num_classes)
)
