_base_ = "./atss_r50_fpn_efl-rfs_ms-8xb2-2x_lvis-v1.py"

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet101"))
)
