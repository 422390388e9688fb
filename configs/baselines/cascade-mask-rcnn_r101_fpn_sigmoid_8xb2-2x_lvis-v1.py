_base_ = [
    "./cascade-mask-rcnn_r50_fpn_sigmoid_8xb2-2x_lvis-v1.py",
    "../_base_/backbones/resnet101.py",
]

model = dict(backbone=_base_.pop("backbone"))
