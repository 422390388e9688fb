"""Parts of RoI heads that long-tailed detection needs."""

from mmdet_eql.heads.box_head import (
    PrefixNMSConvFCBBoxHead,
    PrefixNMSHeadMixin,
    PrefixNMSShared2FCBBoxHead,
    PrefixNMSShared4Conv1FCBBoxHead,
)
from mmdet_eql.heads.image_level_labels import (
    ImageLevelLabelHeadMixin,
    ImageLevelLabelSampler,
    ImageLevelShared2FCBBoxHead,
)
from mmdet_eql.heads.instance_tta import InstanceTTAModel
from mmdet_eql.heads.mask_cascade import SelectiveMaskCascadeRoIHead, SelectiveMaskHTCRoIHead
from mmdet_eql.heads.mask_head import SelectiveFCNMaskHead, SelectiveHTCMaskHead
from mmdet_eql.heads.mask_pasting import paste_as_rle
from mmdet_eql.heads.multiclass_nms import multiclass_nms
from mmdet_eql.heads.prior_linear import PriorLinear
from mmdet_eql.heads.roi_align import SeparableRoIAlign, SeparableRoIExtractor

__all__ = [
    "ImageLevelLabelHeadMixin",
    "ImageLevelLabelSampler",
    "ImageLevelShared2FCBBoxHead",
    "InstanceTTAModel",
    "PrefixNMSConvFCBBoxHead",
    "PrefixNMSHeadMixin",
    "PrefixNMSShared2FCBBoxHead",
    "PrefixNMSShared4Conv1FCBBoxHead",
    "PriorLinear",
    "SelectiveFCNMaskHead",
    "SelectiveHTCMaskHead",
    "SelectiveMaskCascadeRoIHead",
    "SelectiveMaskHTCRoIHead",
    "SeparableRoIAlign",
    "SeparableRoIExtractor",
    "multiclass_nms",
    "paste_as_rle",
]
