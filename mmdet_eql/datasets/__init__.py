"""Datasets and samplers that know how often each category occurs."""

from mmdet_eql.annotations.lvis_format import load_lvis_json
from mmdet_eql.datasets.image_labels import ImageLabels, image_labels_of
from mmdet_eql.datasets.image_level_labels import MixImageLevelLabels, PackLVISInputs
from mmdet_eql.datasets.image_loading import LoadVerifiedImage
from mmdet_eql.datasets.lvis import LVISFormatDataset
from mmdet_eql.datasets.open_images import CountedOpenImagesChallengeDataset
from mmdet_eql.datasets.samplers import (
    CategoryAwareSampler,
    MixedSampler,
    RepeatFactorSampler,
    ResumableAspectRatioBatchSampler,
)

__all__ = [
    "CategoryAwareSampler",
    "CountedOpenImagesChallengeDataset",
    "ImageLabels",
    "LVISFormatDataset",
    "LoadVerifiedImage",
    "MixImageLevelLabels",
    "MixedSampler",
    "PackLVISInputs",
    "RepeatFactorSampler",
    "ResumableAspectRatioBatchSampler",
    "image_labels_of",
    "load_lvis_json",
]
