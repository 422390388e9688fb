_base_ = "./mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        mask_head=dict(
            type="SelectiveFCNMaskHead", class_agnostic=False, num_classes=_base_.num_classes
        )
    )
)
