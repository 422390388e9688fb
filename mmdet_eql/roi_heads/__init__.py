"""Parts of RoI heads that long-tailed detection needs."""

from mmdet_eql.roi_heads.image_level_labels import (
    ImageLevelLabelHeadMixin,
    ImageLevelLabelSampler,
    ImageLevelShared2FCBBoxHead,
)
from mmdet_eql.roi_heads.mask_cascade import SelectiveMaskCascadeRoIHead, SelectiveMaskHTCRoIHead
from mmdet_eql.roi_heads.mask_head import SelectiveFCNMaskHead, SelectiveHTCMaskHead
from mmdet_eql.roi_heads.mask_pasting import paste_as_rle

__all__ = [
    "ImageLevelLabelHeadMixin",
    "ImageLevelLabelSampler",
    "ImageLevelShared2FCBBoxHead",
    "SelectiveFCNMaskHead",
    "SelectiveHTCMaskHead",
    "SelectiveMaskCascadeRoIHead",
    "SelectiveMaskHTCRoIHead",
    "paste_as_rle",
]
