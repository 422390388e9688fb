# Softmax cross-entropy, the baseline; imbalance factor 100.
_base_ = [
    "./_base_/models/cifar_resnet32.py",
    "./_base_/datasets/cifar10_lt.py",
    "./_base_/schedules/cifar_200e.py",
    "./_base_/runtime.py",
]

model = dict(head=dict(num_classes=_base_.num_classes))
