"""The labels of the instances of all images as arrays, for samplers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmdet_eql.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class InstanceLabels:
    """The labels of the instances of each image, in compressed sparse rows.

    Image i has the labels ``labels[offsets[i] : offsets[i + 1]]``, one for each instance.

    Args:
        offsets (np.ndarray): int64 of shape (number of images + 1,), rising from 0.
        labels (np.ndarray): int64 of shape (number of instances,), each in [0, C).

    Example:
        >>> labels = InstanceLabels.from_lists([[3, 1, 3], [], [1]])
        >>> labels[0]
        array([3, 1, 3])
        >>> labels.pairs()
        (array([0, 0, 2]), array([1, 3, 1]))
    """

    offsets: np.ndarray
    labels: np.ndarray

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> "InstanceLabels":
        """The labels of images given one by one, in their order."""
        counts = np.array([len(labels) for labels in lists], dtype=np.int64)
        flat = [label for labels in lists for label in labels]
        return cls(np.append(0, np.cumsum(counts)), np.array(flat, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence["InstanceLabels"]) -> "InstanceLabels":
        """The labels of several sets of images, one after another."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        return cls(np.append(0, np.cumsum(counts)), labels)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Labels of one image, int64 of shape (instances of the image,)."""
        return self.labels[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: Sequence[int] | np.ndarray) -> "InstanceLabels":
        """The labels of some images, in the order given and repeated as given."""
        indices = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[indices]
        counts = self.offsets[indices + 1] - starts
        offsets = np.append(0, np.cumsum(counts))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return InstanceLabels(offsets, self.labels[np.repeat(starts, counts) + within])

    @property
    def image_index(self) -> np.ndarray:
        """The image of each instance, int64 of shape (number of instances,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Each (image, label) that occurs, once: two int64 arrays, sorted by image and label."""
        width = int(self.labels.max(initial=0)) + 1
        key = np.unique(self.image_index * width + self.labels)
        return key // width, key % width


def instance_labels_of(dataset) -> InstanceLabels:
    """The labels of a dataset's images, one row for each index, through wrappers.

    The dataset has an attribute ``instance_labels`` (``LVISFormatDataset``) or a method
    ``get_cat_ids`` (mmdet's detection datasets; slow), or is mmengine's ``ConcatDataset``,
    ``RepeatDataset`` or ``ClassBalancedDataset``, mmdet's ``MultiImageMixDataset`` or PyTorch's
    ``Subset`` around such ones.

    Raises:
        UserError: If the dataset has none of these.
    """
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    if hasattr(dataset, "datasets"):
        labels = InstanceLabels.concatenate([instance_labels_of(part) for part in dataset.datasets])
    elif hasattr(dataset, "instance_labels"):
        labels = dataset.instance_labels
    elif hasattr(dataset, "repeat_indices"):
        labels = instance_labels_of(dataset.dataset).take(dataset.repeat_indices)
    elif hasattr(dataset, "dataset"):
        labels = instance_labels_of(dataset.dataset)
        if hasattr(dataset, "indices"):
            labels = labels.take(dataset.indices)
        elif hasattr(dataset, "times"):
            labels = labels.take(np.tile(np.arange(len(labels)), dataset.times))
    elif hasattr(dataset, "get_cat_ids"):
        labels = InstanceLabels.from_lists([dataset.get_cat_ids(i) for i in range(len(dataset))])
    else:
        raise UserError(
            f"train_dataloader.dataset: {type(dataset).__name__} has no labels of its "
            "images; use type='LVISFormatDataset', a dataset with a method 'get_cat_ids', or "
            "a wrapper around one."
        )
    if len(labels) > len(dataset):
        # `num_batch_per_epoch` of a data loader cuts its dataset off.
        labels = labels.take(np.arange(len(dataset)))
    return labels
