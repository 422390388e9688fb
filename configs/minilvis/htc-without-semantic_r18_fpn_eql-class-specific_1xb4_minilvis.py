_base_ = "./htc-without-semantic_r18_fpn_eql_1xb4_minilvis.py"

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
