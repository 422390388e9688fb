"""Datasets and samplers that know how often each category occurs."""

from mmdet_eql.annotations.instance_labels import InstanceLabels, instance_labels_of
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
    "InstanceLabels",
    "LVISFormatDataset",
    "LoadVerifiedImage",
    "MixImageLevelLabels",
    "MixedSampler",
    "PackLVISInputs",
    "RepeatFactorSampler",
    "ResumableAspectRatioBatchSampler",
    "instance_labels_of",
]
