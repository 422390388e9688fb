# Softmax cross-entropy, the baseline.
_base_ = [
    "./_base_/models/cifar_resnet32.py",
    "./_base_/datasets/minilvis_crops.py",
    "./_base_/schedules/minilvis_40e.py",
    "./_base_/runtime.py",
]

model = dict(backbone=dict(depth=14, stem_stride=2), head=dict(num_classes=_base_.num_classes))
