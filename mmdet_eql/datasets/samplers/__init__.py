"""Samplers that know how often each category occurs."""

from mmdet_eql.datasets.samplers.aspect_ratio import ResumableAspectRatioBatchSampler
from mmdet_eql.datasets.samplers.category_aware import CategoryAwareSampler
from mmdet_eql.datasets.samplers.mixed import MixedSampler
from mmdet_eql.datasets.samplers.repeat_factor import (
    RepeatFactorSampler,
    category_repeat_factors,
    image_repeat_factors,
)
from mmdet_eql.datasets.samplers.stream import StreamSampler

__all__ = [
    "CategoryAwareSampler",
    "MixedSampler",
    "RepeatFactorSampler",
    "ResumableAspectRatioBatchSampler",
    "StreamSampler",
    "category_repeat_factors",
    "image_repeat_factors",
]
