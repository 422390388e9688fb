_base_ = ["./htc_r50_fpn_sigmoid_8xb2-2x_lvis-v1.py", "../_base_/backbones/resnext101_64x4d.py"]

model = dict(backbone=_base_.pop("backbone"))
