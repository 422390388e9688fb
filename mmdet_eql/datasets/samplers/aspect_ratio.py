"""Batches of images with a similar aspect ratio, from any batch on."""

from collections.abc import Iterator
from itertools import islice

from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableAspectRatioBatchSampler(AspectRatioBatchSampler):
    """mmdet's ``AspectRatioBatchSampler``, which a resumed iteration-based run can skip ahead in.

    mmengine would read all images of the batches before; here only the groups are formed again,
    when ``ResumeRandomnessHook`` calls :meth:`skip`. Arguments are those of mmdet's.
    """

    _skipped = 0

    def skip(self, num_batches: int) -> None:
        """Start after as many batches, counted from the beginning of the sampler's stream."""
        self._skipped = num_batches

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self._skipped, None)
