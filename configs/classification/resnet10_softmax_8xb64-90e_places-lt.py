# Softmax cross-entropy, the baseline. Others train a ResNet-152 of ImageNet's weights here.
_base_ = [
    "./_base_/models/resnet10.py",
    "./_base_/datasets/places_lt.py",
    "./_base_/schedules/imagenet_90e.py",
    "./_base_/runtime.py",
]

model = dict(head=dict(num_classes=_base_.num_classes))
