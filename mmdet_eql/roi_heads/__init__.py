"""Parts of RoI heads that long-tailed detection needs."""

from mmdet_eql.roi_heads.image_level_labels import (
    ImageLevelLabelHeadMixin,
    ImageLevelLabelSampler,
    ImageLevelShared2FCBBoxHead,
)

__all__ = ["ImageLevelLabelHeadMixin", "ImageLevelLabelSampler", "ImageLevelShared2FCBBoxHead"]
