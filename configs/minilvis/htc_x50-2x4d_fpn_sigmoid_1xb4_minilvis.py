_base_ = ["./htc_r18_fpn_sigmoid_1xb4_minilvis.py", "../_base_/backbones/resnext50_2x4d_mini.py"]

model = dict(backbone=_base_.pop("backbone"))
