_base_ = [
    "./cascade-mask-rcnn_r18_fpn_eql_1xb4_minilvis.py",
    "../_base_/backbones/resnext50_2x4d_mini.py",
]

model = dict(backbone=_base_.pop("backbone"))
