_base_ = [
    "./htc-without-semantic_r50_fpn_eql_8xb2-1x_lvis-v1.py",
    "../_base_/backbones/resnet101.py",
]

model = dict(backbone=_base_.pop("backbone"))
