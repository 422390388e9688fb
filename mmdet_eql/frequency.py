"""How often each category occurs in the training images.

The training dataset owns the counts, taken before any image is filtered.

Glossary:
    C: number of categories.
    N_j: image count, the number of training images that contain category j.
    f_j: frequency, N_j over the number of all training images, annotated or not.
    lambda: the frequency below which a category belongs to the tail.
    TR(lambda): tail ratio, the share of the image counts that belongs to the tail,
        sum_j T(f_j) N_j / sum_j N_j with T(f) = 1 if f < lambda else 0 (EQL paper, section 4.1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmdet_eql.utils.errors import UserError

#: LVIS calls a category rare, common or frequent by the number of training images it occurs in:
#: up to 10, up to 100, or more.
RARE_MAX_IMAGES = 10
COMMON_MAX_IMAGES = 100
#: The names of the groups' letters, from the rarest on.
GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
#: And their colours in pictures, Okabe and Ito's, which stay apart for colour-blind eyes.
GROUP_COLOURS = {"r": "#D55E00", "c": "#F0E442", "f": "#56B4E9"}


class UncountedDatasetError(UserError):
    """A dataset that does not count its categories."""


@dataclass(frozen=True, eq=False)
class ClassFrequency:
    """Occurrences of each category in a training set.

    Args:
        image_count (np.ndarray): N_j, int64 of shape (C,).
        instance_count (np.ndarray): Number of annotated instances, int64 of shape (C,).
        num_images (int): Number of all images of the training set.
        class_names (tuple[str]): C names, in the order of the labels.

    Raises:
        UserError: If the lengths differ, a count is negative, or a category occurs in more images
            than there are.

    Example:
        >>> freq = ClassFrequency(np.array([1, 60, 200]), np.array([1, 90, 500]), 400, tuple("abc"))
        >>> freq.frequency
        array([0.0025, 0.15  , 0.5   ])
        >>> freq.group
        array(['r', 'c', 'f'], dtype='<U1')
        >>> round(freq.tail_ratio(0.2), 3)
        0.234
    """

    image_count: np.ndarray
    instance_count: np.ndarray
    num_images: int
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.image_count), len(self.instance_count), len(self.class_names)}
        if len(lengths) != 1:
            raise UserError(
                f"class frequency: {len(self.image_count)} image counts, "
                f"{len(self.instance_count)} instance counts and {len(self.class_names)} names; "
                "give one of each per category."
            )
        if self.num_images < 1:
            raise UserError("class frequency: the training set has no images; give one that has.")
        counts = np.concatenate([self.image_count, self.instance_count])
        if len(counts) and (counts.min() < 0 or self.image_count.max() > self.num_images):
            raise UserError(
                "class frequency: each category must occur in at least 0 and at most "
                f"{self.num_images} images (all of them); correct the counts."
            )

    @classmethod
    def from_labels(
        cls,
        image_index: Sequence[int] | np.ndarray,
        label: Sequence[int] | np.ndarray,
        num_images: int,
        class_names: Sequence[str],
    ) -> "ClassFrequency":
        """Count annotations, given the index of the image and the label of each, in [0, C)."""
        num_classes = len(class_names)
        label = np.asarray(label, dtype=np.int64)
        pairs = np.unique(np.asarray(image_index, dtype=np.int64) * num_classes + label)
        return cls(
            image_count=np.bincount(pairs % max(num_classes, 1), minlength=num_classes),
            instance_count=np.bincount(label, minlength=num_classes),
            num_images=num_images,
            class_names=tuple(class_names),
        )

    @classmethod
    def merge(cls, parts: Iterable["ClassFrequency"]) -> "ClassFrequency":
        """Add the counts of training sets with disjoint images and the same categories.

        Raises:
            UserError: If the sets name different categories.
        """
        parts = list(parts)
        if any(part.class_names != parts[0].class_names for part in parts):
            raise UserError(
                "class frequency: the concatenated training sets name different categories; give "
                "each of them the same 'metainfo.classes'."
            )
        return cls(
            image_count=np.sum([part.image_count for part in parts], axis=0),
            instance_count=np.sum([part.instance_count for part in parts], axis=0),
            num_images=sum(part.num_images for part in parts),
            class_names=parts[0].class_names,
        )

    def select(self, class_names: Sequence[str]) -> "ClassFrequency":
        """Return the counts of some categories, in the order given; a UserError if it lacks one."""
        position = {name: index for index, name in enumerate(self.class_names)}
        missing = [name for name in class_names if name not in position]
        if missing:
            raise UserError(
                f"class frequency: the training set has no category {missing[0]!r}, which the "
                "model has; give the training set of its checkpoint."
            )
        index = [position[name] for name in class_names]
        return ClassFrequency(
            self.image_count[index], self.instance_count[index], self.num_images, tuple(class_names)
        )

    def __len__(self) -> int:
        return len(self.image_count)

    @property
    def frequency(self) -> np.ndarray:
        """f_j, float64 of shape (C,), each in [0, 1]."""
        return self.image_count / self.num_images

    @property
    def group(self) -> np.ndarray:
        """LVIS's frequency group of each category: ``"r"``, ``"c"`` or ``"f"``, shape (C,)."""
        return frequency_group(self.image_count)

    def tail_ratio(self, lambda_: float) -> float:
        """TR(lambda), in [0, 1]; see the glossary."""
        total = self.image_count.sum()
        return float(self.image_count[self.frequency < lambda_].sum() / total) if total else 0.0


def frequency_group(image_count: np.ndarray) -> np.ndarray:
    """LVIS's group of each N_j: ``"r"`` (at most 10 images), ``"c"`` (at most 100) or ``"f"``."""
    limits = np.array([RARE_MAX_IMAGES, COMMON_MAX_IMAGES])
    return np.array(list(GROUP_NAMES))[np.searchsorted(limits, image_count)]


def class_frequency_of(dataset) -> ClassFrequency:
    """Find the class frequency that a training dataset owns, whatever a wrapper repeats.

    The dataset has an attribute ``class_frequency``, or is a wrapper with the attribute
    ``dataset`` (mmengine's ``RepeatDataset`` and ``ClassBalancedDataset``, mmdet's
    ``MultiImageMixDataset``) or ``datasets`` (``ConcatDataset``) around such ones.

    Raises:
        UncountedDatasetError: If a dataset in there does not count its categories.
        UserError: If concatenated datasets name different categories.
    """
    if hasattr(dataset, "class_frequency"):
        return dataset.class_frequency
    if hasattr(dataset, "datasets"):
        return ClassFrequency.merge(class_frequency_of(part) for part in dataset.datasets)
    if hasattr(dataset, "dataset"):
        return class_frequency_of(dataset.dataset)
    raise UncountedDatasetError(
        f"train_dataloader.dataset: {type(dataset).__name__} does not count its categories; use "
        "type='LVISFormatDataset', or a wrapper around it."
    )
