_base_ = "./mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        mask_head=dict(
            type="SelectiveFCNMaskHead", class_agnostic=False, num_classes=_base_.num_classes
        )
    )
)
