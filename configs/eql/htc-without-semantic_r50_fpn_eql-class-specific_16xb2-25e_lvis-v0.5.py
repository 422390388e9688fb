_base_ = "./htc-without-semantic_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

model = dict(
    roi_head=dict(
        type="SelectiveMaskHTCRoIHead",
        mask_head=[
            dict(
                stage,
                type="SelectiveHTCMaskHead",
                class_agnostic=False,
                num_classes=_base_.num_classes,
            )
            for stage in _base_.model.roi_head.mask_head
        ],
    )
)
