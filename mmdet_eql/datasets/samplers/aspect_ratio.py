"""Batches of images with a similar aspect ratio."""

from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableAspectRatioBatchSampler(AspectRatioBatchSampler):
    """mmdet's ``AspectRatioBatchSampler`` by another name, for configs that have it.

    ``ResumeRandomnessHook`` skips the batches of either without reading their images.
    """
