_base_ = "./mask-rcnn_r50_fpn_sigmoid_16xb2-25e_lvis-v0.5.py"

model = dict(
    roi_head=dict(
        mask_head=dict(
            type="SelectiveFCNMaskHead", class_agnostic=False, num_classes=_base_.num_classes
        )
    )
)
