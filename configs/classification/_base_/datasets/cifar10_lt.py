# Unpack cifar-10-python.tar.gz in data/cifar (see docs/classification.md).
_base_ = "./cifar100_lt.py"

num_classes = 10

train_dataloader = dict(dataset=dict(type="LongTailedCIFAR10"))
val_dataloader = dict(dataset=dict(type="LongTailedCIFAR10"))
test_dataloader = val_dataloader
