_base_ = [
    "./cascade-mask-rcnn_r18_fpn_eql_1xb4_minilvis.py",
    "../_base_/mask_heads/class_specific.py",
]

model = dict(
    roi_head=dict(
        type="SelectiveMaskCascadeRoIHead",
        mask_head=dict(_base_.pop("mask_head"), num_classes=_base_.num_classes),
    )
)
