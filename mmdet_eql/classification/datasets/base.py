"""Bases of the datasets with one label per image: M images of C classes."""

from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset

from mmdet_eql.classification.datasets.long_tail import long_tailed_indices
from mmdet_eql.datasets import InstanceLabels
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError


class LabelledImages(BaseDataset):
    """Base of the datasets with one label per image.

    A subclass defines ``load_data_list``, whose records have ``gt_label``, an int in [0, C), and
    sets ``self._metainfo["classes"]`` to C names. Images are counted before ``indices`` drops any.
    """

    @property
    def class_frequency(self) -> ClassFrequency:
        """Images of each class, and their share of all images."""
        self.full_init()
        return self._class_frequency

    @property
    def instance_labels(self) -> InstanceLabels:
        """The label of each image, as samplers take them."""
        self.full_init()
        labels = [self.get_cat_ids(index)[0] for index in range(len(self))]
        return InstanceLabels(np.arange(len(labels) + 1), np.array(labels, dtype=np.int64))

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the label of one image, as mmengine's ``ClassBalancedDataset`` needs it."""
        # Not self.get_data_info(), which may copy the image.
        return [BaseDataset.get_data_info(self, idx)["gt_label"]]

    def filter_data(self) -> list[dict]:
        """Count the images; none is filtered."""
        labels = [info["gt_label"] for info in self.data_list]
        self._class_frequency = ClassFrequency.from_labels(
            np.arange(len(labels)), labels, len(labels), self._metainfo["classes"]
        )
        return self.data_list

    def _check_labels(self, labels: Sequence[int], source: str) -> None:
        """Raise a UserError that names ``source`` if there are no labels or one is invalid."""
        num_classes = len(self._metainfo["classes"])
        if len(labels) == 0:
            raise UserError(f"{source}: lists no images; give a file or folder that does.")
        low, high = min(labels), max(labels)
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{source}: has the label {low if low < 0 else high}, but there are {num_classes} "
                f"classes, 0 to {num_classes - 1}; correct the file, or 'metainfo.classes' in the "
                "config."
            )


class ImagesInMemory(LabelledImages):
    """Base of the datasets whose images are one array; a subclass gives :meth:`load_arrays`.

    Args:
        split (str): One of ``splits`` of the class.
        imbalance_factor (float, optional): Size of the largest class over that of the smallest, of
            an exponential profile; see :func:`long_tailed_indices`. None keeps all images.
        subset_seed (int): Seed of the choice of images.
        **kwargs: As in mmengine's ``BaseDataset``.

    Raises:
        UserError: If there is no such split.
    """

    splits: tuple[str, ...]

    def __init__(
        self, split: str, imbalance_factor: float | None = None, subset_seed: int = 0, **kwargs
    ) -> None:
        if split not in self.splits:
            raise UserError(
                f"{type(self).__name__}: split is {split!r}; choose "
                f"{' or '.join(map(repr, self.splits))}."
            )
        self.split = split
        self.imbalance_factor = imbalance_factor
        self.subset_seed = subset_seed
        super().__init__(**kwargs)

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Read images, BGR, uint8 (M, H, W, 3), their labels, int64 (M,), and the C names."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        """Read the set and cut it: ``index`` in ``self.images`` and ``gt_label`` of each image."""
        images, labels, classes = self.load_arrays()
        self._metainfo["classes"] = tuple(classes)
        self._check_labels(labels, self.ann_file or self.data_root)
        if self.imbalance_factor is not None:
            chosen = long_tailed_indices(
                labels, len(classes), self.imbalance_factor, self.subset_seed
            )
            images, labels = images[chosen], labels[chosen]
        self.images = images
        return [dict(index=i, gt_label=label) for i, label in enumerate(labels.tolist())]

    def get_data_info(self, idx: int) -> dict:
        """Return ``img`` (a copy), ``img_shape``, ``ori_shape``, ``gt_label``, ``sample_idx``."""
        info = super().get_data_info(idx)
        info["img"] = self.images[info["index"]].copy()
        info["img_shape"] = info["ori_shape"] = info["img"].shape[:2]
        return info
