# The same model, parameters and results with parts that do not slow down with the number of
# categories: docs/lvis-scale.md.
_base_ = "./mask-rcnn_r50_fpn.py"

model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(type="SeparableRoIExtractor"),
        bbox_head=dict(type="PrefixNMSShared2FCBBoxHead"),
        mask_roi_extractor=dict(type="SeparableRoIExtractor"),
        mask_head=dict(type="SelectiveFCNMaskHead", masks_as_rle=True),
    )
)
