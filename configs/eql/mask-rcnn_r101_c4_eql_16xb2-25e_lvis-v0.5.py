_base_ = [
    "./mask-rcnn_r50_c4_eql_16xb2-25e_lvis-v0.5.py",
    "../_base_/backbones/resnet101_c4.py",
]

model = dict(
    backbone=_base_.pop("backbone"),
    roi_head=dict(shared_head=_base_.pop("shared_head")),
)
