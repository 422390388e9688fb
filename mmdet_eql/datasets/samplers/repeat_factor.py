"""Repeat factor sampling: images with rare categories come several times an epoch.

From the LVIS paper (arXiv 1908.03195, appendix B); the instance-aware form is from IRFS (arXiv
2305.08069).

Glossary:
    f(c): frequency of category c in the training set, in [0, 1].
    t: repeat threshold.
    r(c): repeat factor of a category, max(1, sqrt(t / f(c))).
    r(i): repeat factor of an image, the largest r(c) of its categories; 1 if it has none.
"""

import logging
import math
from collections.abc import Sized

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS

from mmdet_eql.annotations.instance_labels import InstanceLabels, instance_labels_of
from mmdet_eql.datasets.samplers.stream import StreamSampler
from mmdet_eql.frequency import ClassFrequency, UncountedDatasetError, class_frequency_of
from mmdet_eql.utils.errors import UserError

FREQUENCIES = ("image", "instance", "image-instance")


def category_repeat_factors(
    class_frequency: ClassFrequency,
    repeat_threshold: float,
    sqrt: bool = True,
    frequency: str = "image",
    max_repeat: float | None = None,
) -> np.ndarray:
    """Repeat factors of the categories.

    Args:
        class_frequency (ClassFrequency): Counts of C categories in the training set.
        repeat_threshold (float): t; categories below this frequency are repeated.
        sqrt (bool): Whether to take the root of t / f(c).
        frequency (str): What f(c) is. ``"image"``: the share of the images that contain c (LVIS
            paper). ``"instance"``: the share of the instances that are of c. ``"image-instance"``:
            the geometric mean of both (IRFS).
        max_repeat (float, optional): Upper limit of r(c).

    Returns:
        np.ndarray: r(c), float64 of shape (C,); 1 for a category that never occurs.

    Raises:
        UserError: If an option is invalid.
    """
    if not 0 <= repeat_threshold < math.inf:
        raise UserError(
            f"RepeatFactorSampler: 'repeat_threshold' is {repeat_threshold}; give a finite "
            "frequency of at least 0, such as 0.001."
        )
    if max_repeat is not None and not max_repeat >= 1:
        raise UserError(
            f"RepeatFactorSampler: 'max_repeat' is {max_repeat}; give a number of at least 1, or "
            "None for no limit."
        )
    if frequency not in FREQUENCIES:
        raise UserError(
            f"RepeatFactorSampler: 'frequency' is {frequency!r}; give one of {FREQUENCIES}."
        )
    of_images = class_frequency.frequency
    of_instances = class_frequency.instance_count / max(class_frequency.instance_count.sum(), 1)
    both = np.sqrt(of_images * of_instances)
    f = dict(zip(FREQUENCIES, (of_images, of_instances, both), strict=True))[frequency]
    ratio = np.divide(repeat_threshold, f, out=np.ones_like(f), where=f > 0)
    return np.clip(np.sqrt(ratio) if sqrt else ratio, 1, max_repeat)


def image_repeat_factors(labels: InstanceLabels, category_factors: np.ndarray) -> np.ndarray:
    """r(i) of the images with these labels, float64 of shape (M,), from r(c) of shape (C,)."""
    factors = np.ones(len(labels))
    annotated = np.diff(labels.offsets) > 0
    if annotated.any():
        of_instances = category_factors[labels.labels]
        factors[annotated] = np.maximum.reduceat(of_instances, labels.offsets[:-1][annotated])
    return factors


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(StreamSampler):
    """Draws image i on average r(i) times an epoch.

    Each epoch rounds every r(i) anew: up with the probability of its fractional part, else down.
    f(c) is the dataset's class frequency: counted in its annotation file before any image is
    filtered (detectron2 and mmengine count what the filter leaves). With a threshold of 0, the
    sampler is mmengine's ``DefaultSampler``, index by index.

    Args:
        dataset (Sized): The training dataset, wrapped or not.
        repeat_threshold, sqrt, frequency, max_repeat: See :func:`category_repeat_factors`.
        shuffle (bool): Whether the order is drawn, too, or that of the dataset.
        seed, infinite: See :class:`StreamSampler`.

    Attributes:
        repeat_factors (np.ndarray): r(i), float64 of shape (M,).

    Raises:
        UserError: If an option is invalid, or the dataset has no labels.

    Example:
        >>> train_dataloader = dict(
        ...     sampler=dict(type="RepeatFactorSampler", repeat_threshold=1e-3)
        ... )
    """

    def __init__(
        self,
        dataset: Sized,
        repeat_threshold: float = 1e-3,
        sqrt: bool = True,
        frequency: str = "image",
        max_repeat: float | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        infinite: bool = False,
    ) -> None:
        super().__init__(dataset, seed, infinite)
        self.shuffle = shuffle
        labels = instance_labels_of(dataset)
        of_categories = category_repeat_factors(
            _frequency_of(dataset, labels), repeat_threshold, sqrt, frequency, max_repeat
        )
        self.repeat_factors = image_repeat_factors(labels, of_categories)
        if repeat_threshold > 0 and _repeats(dataset):
            print_log(
                "train_dataloader.dataset: ClassBalancedDataset repeats images of rare categories, "
                "and RepeatFactorSampler repeats them again; leave one of them out.",
                logger="current",
                level=logging.WARNING,
            )
        self._lengths: dict[int, int] = {}
        print_log(
            f"RepeatFactorSampler: {len(labels):,} images make epochs of about "
            f"{self.repeat_factors.sum():,.0f}; {(self.repeat_factors > 1).sum():,} of them are "
            f"repeated, up to {self.repeat_factors.max():.1f} times",
            logger="current",
        )

    def repeats(self, epoch: int) -> np.ndarray:
        """How often each image comes in an epoch, int64 of shape (M,)."""
        rounded_down = np.floor(self.repeat_factors)
        chance = np.random.default_rng((self.seed, epoch)).random(len(rounded_down))
        return (rounded_down + (chance < self.repeat_factors - rounded_down)).astype(np.int64)

    def epoch_length(self, epoch: int) -> int:
        if epoch not in self._lengths:
            self._lengths[epoch] = int(self.repeats(epoch).sum())
        return self._lengths[epoch]

    def epoch_indices(self, epoch: int) -> np.ndarray:
        repeats = self.repeats(epoch)
        indices = np.repeat(np.arange(len(repeats)), repeats)
        if not self.shuffle:
            return indices
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return indices[torch.randperm(len(indices), generator=generator).numpy()]


def _repeats(dataset) -> bool:
    while not hasattr(dataset, "repeat_indices") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return hasattr(dataset, "repeat_indices")


def _frequency_of(dataset, labels: InstanceLabels) -> ClassFrequency:
    try:
        return class_frequency_of(dataset)
    except UncountedDatasetError:
        # Not one of ours: count what it holds.
        names = [str(label) for label in range(labels.labels.max(initial=-1) + 1)]
        return ClassFrequency.from_labels(labels.image_index, labels.labels, len(labels), names)
