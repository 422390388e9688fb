"""Training and testing on any dataset in LVIS format: v0.5, v1, MiniLVIS or your own."""

import os.path as osp
from collections import defaultdict
from collections.abc import Iterable

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from mmdet_eql.datasets.image_labels import ImageLabels
from mmdet_eql.datasets.lvis_format import load_lvis_json
from mmdet_eql.datasets.segmentation import segmentation_problem
from mmdet_eql.errors import UserError
from mmdet_eql.frequency import ClassFrequency


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

    Args:
        ann_file (str): Annotation file in LVIS format, relative to ``data_root``.
        *args, **kwargs: As in mmdet's ``BaseDetDataset``.

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

    _image_labels: ImageLabels | None = None

    def load_data_list(self) -> list[dict]:
        """Read the annotation file once.

        Returns:
            list[dict]: One dict per image, as mmdet's ``CocoDataset`` gives it, and with the labels
            ``positive_labels`` and ``negative_labels`` that the image is known to have and not to
            have.
        """
        data = load_lvis_json(self.ann_file, self.backend_args, annotated=not self.test_mode)
        categories = self._select_categories(data["categories"])
        self.cat_ids = [category["id"] for category in categories]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}
        self._metainfo["classes"] = tuple(category["name"] for category in categories)
        self.class_frequency = self._count(data)

        annotations = defaultdict(list)
        for annotation in data["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        data_list = [self._parse_image(image, annotations[image["id"]]) for image in data["images"]]
        self._check_image_folder(data_list[0])
        return data_list

    def filter_data(self) -> list[dict]:
        """Drop images as ``filter_cfg`` says; see mmdet's ``CocoDataset``.

        Returns:
            list[dict]: What is left: images of at least ``min_size`` pixels and, with
            ``filter_empty_gt``, with an annotation of one of the classes.
        """
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        min_size = self.filter_cfg.get("min_size", 0)
        filter_empty_gt = self.filter_cfg.get("filter_empty_gt", False)
        kept = [
            info
            for info in self.data_list
            if min(info["width"], info["height"]) >= min_size
            and (info["positive_labels"] or not filter_empty_gt)
        ]
        if not kept:
            raise UserError(
                f"{self.ann_file}: 'filter_cfg' drops every image (filter_empty_gt="
                f"{filter_empty_gt}, min_size={min_size}); give annotated images or a smaller "
                "min_size."
            )
        return kept

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

    @property
    def image_labels(self) -> ImageLabels:
        """The labels of each image's instances, row i for item i of the dataset."""
        if self._image_labels is None:
            self.full_init()
            self._image_labels = ImageLabels.from_lists(
                [self.get_cat_ids(index) for index in range(len(self))]
            )
        return self._image_labels

    def _serialize_data(self):
        # The last time that the instances exist as Python objects.
        self._image_labels = ImageLabels.from_lists(
            [[instance["bbox_label"] for instance in info["instances"]] for info in self.data_list]
        )
        return super()._serialize_data()

    def get_subset_(self, indices: list[int] | int) -> None:
        """As in mmengine's ``BaseDataset``."""
        super().get_subset_(indices)
        self._image_labels = None

    def get_subset(self, indices: list[int] | int) -> "LVISFormatDataset":
        """As in mmengine's ``BaseDataset``."""
        subset = super().get_subset(indices)
        subset._image_labels = None
        return subset

    def _select_categories(self, categories: list[dict]) -> list[dict]:
        by_name = {category["name"]: category for category in categories}
        if len(by_name) < len(categories):
            names = [category["name"] for category in categories]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"{self.ann_file}: two categories are called {twice!r}; names must be unique."
            )
        wanted = self._metainfo.get("classes")
        if wanted is None:
            return sorted(categories, key=lambda category: category["id"])
        unknown = [name for name in wanted if name not in by_name]
        if unknown:
            raise UserError(
                f"{self.ann_file}: has no category {unknown[0]!r}, which 'metainfo.classes' names "
                f"({len(unknown)} of {len(wanted)} are unknown); correct the names, or leave out "
                "'metainfo.classes' to train on all categories."
            )
        return [by_name[name] for name in wanted]

    def _count(self, data: dict) -> ClassFrequency:
        image_index = {image["id"]: index for index, image in enumerate(data["images"])}
        pairs = [
            (image_index[annotation["image_id"]], self.cat2label[annotation["category_id"]])
            for annotation in data["annotations"]
            if annotation["category_id"] in self.cat2label
        ]
        return ClassFrequency.from_labels(
            image_index=[image for image, _ in pairs],
            label=[label for _, label in pairs],
            num_images=len(data["images"]),
            class_names=self._metainfo["classes"],
        )

    def _parse_image(self, image: dict, annotations: list[dict]) -> dict:
        relative_path = image_path(image, self.ann_file)
        seg_map_path = None
        if self.data_prefix.get("seg"):
            stem = osp.splitext(relative_path)[0]
            seg_map_path = osp.join(self.data_prefix["seg"], stem + self.seg_map_suffix)
        info = {
            "img_path": osp.join(self.data_prefix["img"], relative_path),
            "img_id": image["id"],
            "seg_map_path": seg_map_path,
            "height": image["height"],
            "width": image["width"],
            # Image-level labels: what is known to be in the image, tiny instances included, and
            # what is known not to be.
            "positive_labels": self._labels(ann["category_id"] for ann in annotations),
            "negative_labels": self._labels(image["neg_category_ids"]),
        }
        if self.return_classes:
            info["text"] = self._metainfo["classes"]
            info["caption_prompt"] = self.caption_prompt
            info["custom_entities"] = True
        instances = (self._parse_instance(ann, image) for ann in annotations)
        info["instances"] = [instance for instance in instances if instance is not None]
        return info

    def _parse_instance(self, annotation: dict, image: dict) -> dict | None:
        if annotation.get("ignore", False) or annotation["category_id"] not in self.cat2label:
            return None
        x, y, width, height = annotation["bbox"]
        inside_width = min(x + width, image["width"]) - max(x, 0)
        inside_height = min(y + height, image["height"]) - max(y, 0)
        if inside_width <= 0 or inside_height <= 0:
            return None
        if annotation["area"] <= 0 or width < 1 or height < 1:
            return None
        instance = {
            "ignore_flag": int(bool(annotation.get("iscrowd", False))),
            "bbox": [x, y, x + width, y + height],
            "bbox_label": self.cat2label[annotation["category_id"]],
        }
        if annotation.get("segmentation"):
            instance["mask"] = annotation["segmentation"]
        return instance

    def _labels(self, category_ids: Iterable[int]) -> list[int]:
        return sorted({self.cat2label[i] for i in category_ids if i in self.cat2label})

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


def image_path(image: dict, ann_file: str) -> str:
    """Where the file of an image lies below the image folder.

    Args:
        image (dict): Its record in an LVIS annotation file.
        ann_file (str): Name of that file, for error messages.

    Returns:
        str: A relative path.

    Raises:
        UserError: If it leads out of the folder.
    """
    # LVIS names the COCO split an image lies in by its URL alone; v1 mixes splits.
    if image.get("coco_url"):
        path = "/".join(image["coco_url"].split("/")[-2:])
    else:
        path = image["file_name"]
    if osp.isabs(path) or ".." in path.split("/"):
        raise UserError(
            f"{ann_file}: image {image['id']} lies at {path!r}, outside the image folder; "
            "give a path below data_prefix['img']."
        )
    return path
