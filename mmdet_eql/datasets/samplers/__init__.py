"""Samplers that know how often each category occurs.

stream          their base: one order of indices for all ranks, from any position on
repeat_factor   images with rare categories come several times an epoch
category_aware  all categories equally often
mixed           several samplers in shares, which may shift over the epochs
"""

from mmdet_eql.datasets.samplers.category_aware import CategoryAwareSampler
from mmdet_eql.datasets.samplers.mixed import MixedSampler
from mmdet_eql.datasets.samplers.repeat_factor import RepeatFactorSampler
from mmdet_eql.datasets.samplers.stream import StreamSampler
