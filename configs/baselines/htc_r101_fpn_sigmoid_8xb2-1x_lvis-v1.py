_base_ = "./htc_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py"

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="torchvision://resnet101")))
