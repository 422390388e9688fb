_base_ = [
    "./cascade-mask-rcnn_r50_fpn_sigmoid_16xb2-25e_lvis-v0.5.py",
    "../_base_/backbones/resnext101_64x4d.py",
]

model = dict(backbone=_base_.pop("backbone"))
