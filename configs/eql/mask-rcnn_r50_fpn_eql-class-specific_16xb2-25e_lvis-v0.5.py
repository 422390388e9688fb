_base_ = [
    "./mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py",
    "../_base_/mask_heads/class_specific.py",
]

model = dict(roi_head=dict(mask_head=dict(_base_.pop("mask_head"), num_classes=_base_.num_classes)))
