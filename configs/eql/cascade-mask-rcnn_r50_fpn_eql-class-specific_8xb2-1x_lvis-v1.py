_base_ = [
    "./cascade-mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py",
    "../_base_/mask_heads/class_specific.py",
]

model = dict(
    roi_head=dict(
        type="SelectiveMaskCascadeRoIHead",
        mask_head=dict(_base_.pop("mask_head"), num_classes=_base_.num_classes),
    )
)
