"""A dataset that gives the features of its images' RoIs in place of pixels.

Glossary:
    I: number of images of a batch.
    N: number of their RoIs, which may differ from stage to stage of a cascade.
    D: number of features of a RoI, the inputs of the classifier.
    C: number of categories.
"""

import os.path as osp
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.registry import FUNCTIONS
from torch.utils.data import Dataset

from mmdet_eql.decoupled.feature_cache import FeatureSplit
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError

#: Images of a validation set whose files are compared.
_COMPARED = 100


@DATASETS.register_module()
class FeatureDataset(Dataset):
    """The dataset of a detector, whose images are cached features.

    Item i is image i of the dataset, so that samplers, class frequencies and classes are those of
    the dataset. A whole batch is read at once, and ``collate_fn=dict(type="whole_batch")`` hands it
    on as it is. If mirrored copies were cached, too, half of the images are mirrored.

    Args:
        dataset (dict): Config of the dataset. Its pipeline is not run.
        features (str): Folder that ``tools/cache_features.py`` has made.
        split (str): ``"train"`` or ``"val"``.
        image_level_labels (bool): Whether training batches have ``verified``.

    Raises:
        UserError: If the features are not those of the dataset: an image is missing, they were
            cached with other training annotations, or of other validation images with the same ids.
    """

    def __init__(
        self, dataset: dict, features: str, split: str, image_level_labels: bool = False
    ) -> None:
        self.dataset = DATASETS.build(dataset)
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()
        self.split = split
        self.image_level_labels = image_level_labels
        #: As they are and, where there are any, mirrored.
        self.features = [FeatureSplit(features, split)]
        if f"{split}_flipped" in self.features[0].description.splits:
            self.features.append(FeatureSplit(features, f"{split}_flipped"))
        if split == "train":
            self._check_annotations()
        self._position = [self._find_images(part) for part in self.features]
        if split == "val":
            self._check_files()
        self._verified: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of the dataset."""
        return self.dataset.metainfo

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch of these images.

        Returns:
            dict: ``features``, for each stage a tensor (N, D) in the type of the cache. To train,
            for each stage ``labels``, int64 (N,), C for background, and with
            ``image_level_labels`` ``verified``, bool (N, C). To validate, ``rois`` of the last
            stage, float32 (N, 4), ``counts``, the number of RoIs of each image, and ``metainfo``,
            a dict of each image.
        """
        flipped = np.zeros(len(indices), np.int64)
        if len(self.features) > 1:
            flipped = np.random.randint(2, size=len(indices))
        pairs = zip(flipped, indices, strict=True)
        items = [(self.features[f], self._position[f][i]) for f, i in pairs]
        rows = [part.rows(item) for part, item in items]
        stages = range(self.features[0].description.stages)

        def of_stages(kind: str) -> Iterator[torch.Tensor]:
            for stage in stages:
                arrays = [image[f"{kind}_{stage}"] for image in rows]
                yield torch.from_numpy(np.concatenate(arrays))

        batch: dict[str, Any] = {"features": [*of_stages("features")]}
        if self.split == "val":
            counts = [part.counts[-1][item] for part, item in items]
            *_, batch["rois"] = of_stages("rois")
            batch["counts"] = [int(count) for count in counts]
            batch["metainfo"] = [part.metainfo[item] for part, item in items]
            return batch
        batch["labels"] = [labels.long() for labels in of_stages("labels")]
        if self.image_level_labels:
            verified = torch.stack([self._verified_categories(index) for index in indices])
            counts = [[part.counts[stage][item] for part, item in items] for stage in stages]
            batch["verified"] = [
                verified.repeat_interleave(torch.tensor(of_stage), dim=0) for of_stage in counts
            ]
        return batch

    def _verified_categories(self, index: int) -> torch.Tensor:
        if index not in self._verified:
            info = self.dataset.get_data_info(index)
            if "negative_labels" not in info:
                raise UserError(
                    "loss_cls.image_level_labels is on, but the training dataset gives no "
                    "image-level labels; use type='LVISFormatDataset', or set it to False."
                )
            verified = torch.zeros(len(self.metainfo["classes"]), dtype=torch.bool)
            verified[info["positive_labels"] + info["negative_labels"]] = True
            self._verified[index] = verified
        return self._verified[index]

    def _check_annotations(self) -> None:
        """The cached labels must be those of this dataset."""
        folder, cached = self.features[0].folder, self.features[0].description
        counted, split = class_frequency_of(self.dataset), cached.splits["train"]
        theirs = getattr(self.dataset, "ann_file", None) or "train_dataloader.dataset"
        difference = None
        if tuple(cached.classes) != counted.class_names:
            difference = "other classes"
        elif split.instance_count != counted.instance_count.tolist():
            difference = "other numbers of instances"
        elif split.annotations not in (None, annotation_checksum(self.dataset)):
            difference = "other boxes"
        if difference:
            raise UserError(
                f"{folder}: its labels come from {split.ann_file}, which has {difference} than "
                f"{theirs}; give the features of this training set."
            )

    def _check_files(self) -> None:
        """Ids alone do not tell: many files number their images from 1."""
        part, items = self.features[0], self._position[0]
        for index in range(0, len(items), 1 + len(items) // _COMPARED):
            path = self.dataset.get_data_info(index)["img_path"]
            there = part.metainfo[items[index]].get("file_size")
            now = osp.getsize(path) if osp.isfile(path) else there
            if there is not None and now != there:
                raise UserError(
                    f"{part.folder}: its features of image {part.image_ids[items[index]]} come "
                    f"from a file of {there:,} bytes, and {path} has {now:,}; give the features of "
                    "this validation set."
                )

    def _find_images(self, part: FeatureSplit) -> np.ndarray:
        """The item of each image in the cache, int64 of shape (images,)."""
        wanted, cached = image_ids_of(self.dataset), part.image_ids
        order = np.argsort(cached)
        items = order[np.searchsorted(cached, wanted, sorter=order).clip(max=len(order) - 1)]
        missing = wanted[cached[items] != wanted]
        if len(missing):
            raise UserError(
                f"{part.folder}: has no features of {len(missing):,} of the {len(wanted):,} images "
                f"of {self.split}_dataloader.dataset, as of image {missing[0]}; make them by "
                "tools/cache_features.py with this dataset."
            )
        return items


def image_ids_of(dataset: Any) -> np.ndarray:
    """Return the ``img_id`` of each item of a dataset, int64 of shape (images,).

    A UserError if it concatenates datasets, which may use the same ids.
    """
    if hasattr(dataset, "datasets"):
        raise UserError(
            f"{type(dataset).__name__}: features are found by image id, which the datasets in it "
            "may share; merge their annotation files."
        )
    if hasattr(dataset, "image_ids"):
        return dataset.image_ids
    return np.array([dataset.get_data_info(i)["img_id"] for i in range(len(dataset))], np.int64)


def annotation_checksum(dataset: Any) -> int | None:
    """Return a checksum of the boxes of the instances of a ``LVISFormatDataset``, wrapped or not,
    and of their labels, over all images of its file; None of other datasets."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    annotations = getattr(dataset, "annotations", None)
    if annotations is None:
        return None
    chosen, columns = annotations.is_instance, annotations.columns
    parts = (
        columns.image_id[columns.annotation_image],
        columns.box,
        columns.crowd,
        annotations.label,
    )
    return zlib.crc32(b"".join(np.ascontiguousarray(part[chosen]).tobytes() for part in parts))


@FUNCTIONS.register_module()
def whole_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch: the ``collate_fn`` of a dataset that reads batches."""
    return batch
