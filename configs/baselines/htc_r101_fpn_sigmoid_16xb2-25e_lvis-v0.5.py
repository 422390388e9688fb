_base_ = ["./htc_r50_fpn_sigmoid_16xb2-25e_lvis-v0.5.py", "../_base_/backbones/resnet101.py"]

model = dict(backbone=_base_.pop("backbone"))
