# Softmax cross-entropy, the baseline.
_base_ = [
    "./_base_/models/resnet50.py",
    "./_base_/datasets/imagenet_lt.py",
    "./_base_/schedules/imagenet_90e.py",
    "./_base_/runtime.py",
]

model = dict(head=dict(num_classes=_base_.num_classes))
