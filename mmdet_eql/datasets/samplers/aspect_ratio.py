"""Batches of images with a similar aspect ratio, from any batch on."""

from collections.abc import Iterator
from itertools import islice

from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableAspectRatioBatchSampler(AspectRatioBatchSampler):
    """mmdet's ``AspectRatioBatchSampler``, which a resumed iteration-based run can skip ahead in.

    mmengine cannot tell how many indices a grouped batch took, and so reads all the images of the
    batches before; here only the groups are formed again. ``ResumeSamplerHook`` calls it.

    Args:
        *args, **kwargs: As in ``AspectRatioBatchSampler``.
    """

    _skipped = 0

    def skip(self, num_batches: int) -> None:
        """Start after as many batches, counted from the beginning of the sampler's stream."""
        self._skipped = num_batches

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self._skipped, None)
