"""Training and testing on any dataset in LVIS or COCO format: v0.5, v1, MiniLVIS or your own."""

import os.path as osp
from collections.abc import Callable, Sequence

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from mmdet_eql.annotations.labelled_annotations import LabelledAnnotations
from mmdet_eql.annotations.lvis_decoding import read_columns
from mmdet_eql.annotations.segmentation import segmentation_problem
from mmdet_eql.datasets.image_labels import ImageLabels
from mmdet_eql.utils.errors import UserError


@DATASETS.register_module()
class LVISFormatDataset(BaseDetDataset):
    """A dataset whose categories, labels and frequencies all come from its annotation file.

    The categories, sorted by id, become the labels 0 to C - 1, so that nothing has to be written
    down twice. Naming some of them in ``metainfo=dict(classes=(...))`` trains on these alone, in
    the order given. Class frequencies are counted over all images of the file, before
    ``filter_cfg`` and ``indices`` drop any.

    An image's file is the last folder and name of its ``coco_url`` under ``data_prefix['img']``
    (``train2017/000000391895.jpg``), or its ``file_name`` if it has no URL. Instances are kept
    and dropped by the rules of mmdet's ``CocoDataset``.

    The file is decoded once and kept as arrays, which its cache brings to the next start and to
    other processes. With ``serialize_data`` (the default) an item is made from them when it is
    asked for; without, or with proposals, ``data_list`` holds a dict for each image.

    A COCO file serves as well. Its images name no categories that they do not have, so they have no
    ``negative_labels``.

    Args:
        ann_file (str): Annotation file in LVIS or COCO format, relative to ``data_root``.
        *args: As in mmdet's ``BaseDetDataset``.
        annotation_cache (bool | str): Whether to keep the decoded annotations in a file, or the
            folder for it; see :func:`mmdet_eql.annotations.annotation_cache.cached_columns`.
        **kwargs: As in mmdet's ``BaseDetDataset``.

    Attributes:
        class_frequency (ClassFrequency): Occurrences of each category in the annotation file.
        image_labels (ImageLabels): The labels of each image's instances, after filtering.

    Raises:
        UserError: If the annotation file cannot be used, a class in ``metainfo`` is not in it, or
            the image folder is missing.

    Example:
        >>> dataset = LVISFormatDataset(
        ...     ann_file="annotations/lvis_v1_train.json",
        ...     data_root="data/lvis_v1/",
        ...     filter_cfg=dict(filter_empty_gt=True),
        ... )  # doctest: +SKIP
        >>> dataset.class_frequency.frequency.shape  # doctest: +SKIP
        (1203,)
    """

    def __init__(self, *args, annotation_cache: bool | str = True, **kwargs) -> None:
        self.annotation_cache = annotation_cache
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> Sequence[dict]:
        """Read the annotation file once.

        Returns:
            Sequence[dict]: One dict per image, as mmdet's ``CocoDataset`` gives it, and with the
            labels ``positive_labels`` and ``negative_labels`` that the image is known to have and
            not to have.
        """
        columns = read_columns(
            self.ann_file, self.backend_args, not self.test_mode, self.annotation_cache
        )
        categories = self._select_categories(columns.categories)
        self.cat_ids = [identifier for identifier, _ in categories]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._metainfo["classes"] = tuple(name for _, name in categories)
        self._annotations = LabelledAnnotations(columns, self.cat2label)
        self.class_frequency = self._annotations.count(self._metainfo["classes"])

        infos = _LazyInfos(self._make_info, np.arange(columns.num_images))
        self._check_image_folder(infos[0])
        return infos if self._is_lazy else list(infos)

    def filter_data(self) -> Sequence[dict]:
        """Drop images as ``filter_cfg`` says; see mmdet's ``CocoDataset``.

        Returns:
            Sequence[dict]: What is left: images of at least ``min_size`` pixels and, with
            ``filter_empty_gt``, with an annotation of one of the classes.
        """
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        min_size = self.filter_cfg.get("min_size", 0)
        filter_empty_gt = self.filter_cfg.get("filter_empty_gt", False)
        kept = self._annotations.columns.image_size.min(axis=1) >= min_size
        if filter_empty_gt:
            kept &= self._annotations.annotated_images()
        if not kept.any():
            raise UserError(
                f"{self.ann_file}: 'filter_cfg' drops every image (filter_empty_gt="
                f"{filter_empty_gt}, min_size={min_size}); give annotated images or a smaller "
                "min_size."
            )
        return self._get_unserialized_subset(np.flatnonzero(kept).tolist())

    def prepare_data(self, idx: int) -> dict:
        """Pass an item through the pipeline.

        Raises:
            UserError: If a segmentation is none, which would end the interpreter, or is missing
                where the pipeline loads masks.
        """
        info = self.get_data_info(idx)
        with_mask = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        for instance in info["instances"]:
            if with_mask or "mask" in instance:
                mask = instance.get("mask", [])
                problem = segmentation_problem(mask, info["height"], info["width"])
                if problem is not None:
                    raise UserError(
                        f"{self.ann_file}: image {info['img_id']} has an annotation of category "
                        f"{self._metainfo['classes'][instance['bbox_label']]!r} whose "
                        f"'segmentation' cannot be used: {problem}."
                    )
        return self.pipeline(info)

    def get_data_info(self, idx: int) -> dict:
        """As in mmengine's ``BaseDataset``."""
        self.full_init()
        if not self._is_lazy:
            return super().get_data_info(idx)
        info = self._make_info(int(self.data_address[idx]))
        info["sample_idx"] = idx if idx >= 0 else len(self) + idx
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """As in mmdet's ``BaseDetDataset``."""
        self.full_init()
        if not self._is_lazy:
            return super().get_cat_ids(idx)
        return self._annotations.labels[int(self.data_address[idx])].tolist()

    @property
    def image_labels(self) -> ImageLabels:
        """The labels of each image's instances, row i for item i of the dataset."""
        self.full_init()
        if not self._is_lazy:
            return ImageLabels.from_lists([self.get_cat_ids(i) for i in range(len(self))])
        return self._annotations.labels.take(self.data_address)

    @property
    def _is_lazy(self) -> bool:
        # Proposals become part of the items, which then have to be kept.
        return self.serialize_data and self.proposal_file is None

    # mmengine keeps pickled items in `data_bytes` and where each ends in `data_address`. Here the
    # columns take their place, and `data_address` holds the image of each item.

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._is_lazy:
            return super()._serialize_data()
        images, self.data_list = self.data_list.images, []
        return np.empty(0, dtype=np.uint8), images

    def _get_serialized_subset(self, indices: Sequence[int] | int) -> tuple[np.ndarray, np.ndarray]:
        if not self._is_lazy:
            return super()._get_serialized_subset(indices)
        infos = _LazyInfos(self._make_info, self.data_address)
        return self.data_bytes, infos.subset(indices).images

    def _get_unserialized_subset(self, indices: Sequence[int] | int) -> Sequence[dict]:
        if not self._is_lazy:
            return super()._get_unserialized_subset(indices)
        return self.data_list.subset(indices)

    def _select_categories(self, categories: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        by_name = {category[1]: category for category in categories}
        if len(by_name) < len(categories):
            names = [name for _, name in categories]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"{self.ann_file}: two categories are called {twice!r}; names must be unique."
            )
        wanted = self._metainfo.get("classes")
        if wanted is None:
            return sorted(categories)
        unknown = [name for name in wanted if name not in by_name]
        if unknown:
            raise UserError(
                f"{self.ann_file}: has no category {unknown[0]!r}, which 'metainfo.classes' names "
                f"({len(unknown)} of {len(wanted)} are unknown); correct the names, or leave out "
                "'metainfo.classes' to train on all categories."
            )
        return [by_name[name] for name in wanted]

    def _make_info(self, image: int) -> dict:
        annotations = self._annotations
        columns = annotations.columns
        relative_path = columns.path(image)
        seg_map_path = None
        if self.data_prefix.get("seg"):
            stem = osp.splitext(relative_path)[0]
            seg_map_path = osp.join(self.data_prefix["seg"], stem + self.seg_map_suffix)
        height, width = columns.image_size[image].tolist()
        info = {
            "img_path": osp.join(self.data_prefix["img"], relative_path),
            "img_id": int(columns.image_id[image]),
            "seg_map_path": seg_map_path,
            "height": height,
            "width": width,
            # Image-level labels: what is known to be in the image, tiny instances included, and
            # what is known not to be.
            "positive_labels": annotations.positives(image),
            "negative_labels": annotations.negatives(image),
        }
        if self.return_classes:
            info["text"] = self._metainfo["classes"]
            info["caption_prompt"] = self.caption_prompt
            info["custom_entities"] = True
        info["instances"] = annotations.instances(image)
        return info

    def _check_image_folder(self, info: dict) -> None:
        # One look at start-up saves a day in a queue. A remote backend has no folders.
        if self.backend_args and self.backend_args.get("backend") != "local":
            return
        folder = osp.dirname(info["img_path"])
        if not osp.isdir(folder):
            raise UserError(
                f"{osp.abspath(folder)}: no such image folder; correct 'data_prefix' (or "
                f"'data_root') in the config, or put the images of {self.ann_file} there."
            )
        if not osp.isfile(info["img_path"]):
            raise UserError(
                f"{osp.abspath(info['img_path'])}: no such image, though {self.ann_file} lists it; "
                "complete the image folder or correct 'data_prefix' in the config."
            )


class _LazyInfos(Sequence):
    """Items that are made when they are asked for.

    Args:
        make (Callable[[int], dict]): Makes the item of an image.
        images (np.ndarray): The image of each item, int64.
    """

    def __init__(self, make: Callable[[int], dict], images: np.ndarray) -> None:
        self._make = make
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return self._make(int(self.images[index]))

    def subset(self, indices: Sequence[int] | int) -> "_LazyInfos":
        """Some items; a number stands for the first or, if negative, the last so many."""
        if isinstance(indices, int):
            kept = slice(indices) if indices >= 0 else slice(indices, None)
        else:
            kept = np.array(indices, dtype=np.int64)
        return _LazyInfos(self._make, self.images[kept])
