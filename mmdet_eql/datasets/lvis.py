"""Training and testing on any dataset in LVIS or COCO format: v0.5, v1, MiniLVIS or your own."""

import os.path as osp
from collections.abc import Sequence

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.fileio import load

from mmdet_eql.annotations.box_format import refuse_fractional_polygons
from mmdet_eql.annotations.class_names import check_classes, list_names
from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.data_report import DataReport, report_data
from mmdet_eql.annotations.dataset_annotations import DatasetAnnotations
from mmdet_eql.annotations.instance_labels import InstanceLabels
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.annotations.segmentation import PARTLY, WHOLE, segmentation_problem
from mmdet_eql.datasets.image_file import warn_of_depth
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError


@DATASETS.register_module()
class LVISFormatDataset(BaseDetDataset):
    """A dataset whose categories, labels and frequencies all come from its annotation file.

    The categories, sorted by id, become the labels 0 to C - 1. Naming some of them in
    ``metainfo=dict(classes=(...))`` trains on these alone, in the order given. Validation and test
    sets follow the classes of the training set (:meth:`follow_classes`). Class frequencies are
    counted over all images of the file, before ``filter_cfg`` and ``indices`` drop any.

    An image's file is its ``file_name`` under ``data_prefix['img']``, where there is such a file;
    else the last folder and name of its ``coco_url`` (``train2017/000000391895.jpg``). Instances
    are kept and dropped by the rules of mmdet's ``CocoDataset``.

    ``data_list`` holds the positions of the images in the file; an item is made from the file's
    columns when it is asked for. Images of a COCO file have no ``negative_labels``.

    Args:
        ann_file (str): Annotation file in LVIS or COCO format, relative to ``data_root``.
        annotation_cache (bool | str): Whether to keep the decoded annotations in a file, or the
            folder for it; see :func:`mmdet_eql.annotations.cache.cached_columns`.
        serialize_data (bool): Without effect, as no items are kept.
        *args, **kwargs: As in mmdet's ``BaseDetDataset``.

    Attributes:
        class_frequency (ClassFrequency): Occurrences of each category in the annotation file.
        instance_labels (InstanceLabels): The labels of each image's instances, after filtering.

    Raises:
        UserError: If the annotation file cannot be used, a class in ``metainfo`` is not in it, the
            image folder is missing, or ``filter_cfg`` has an unknown key.

    Example:
        >>> dataset = LVISFormatDataset(
        ...     ann_file="annotations/lvis_v1_train.json",
        ...     data_root="data/lvis_v1/",
        ...     filter_cfg=dict(filter_empty_gt=True),
        ... )  # doctest: +SKIP
        >>> dataset.class_frequency.frequency.shape  # doctest: +SKIP
        (1203,)
    """

    def __init__(
        self, *args, annotation_cache: bool | str = True, serialize_data: bool = True, **kwargs
    ) -> None:
        self.annotation_cache = annotation_cache
        unknown = {*(kwargs.get("filter_cfg") or ())} - {"filter_empty_gt", "min_size"}
        if unknown:
            raise UserError(
                f"LVISFormatDataset: 'filter_cfg' has no {min(unknown)!r}; its keys are "
                "filter_empty_gt and min_size."
            )
        super().__init__(*args, serialize_data=False, **kwargs)

    def load_data_list(self) -> np.ndarray:
        """Read the annotation file; return the positions of its images, int64."""
        columns = read_annotations(
            self.ann_file, self.backend_args, not self.test_mode, self.annotation_cache
        )
        given = self._metainfo.get("classes")
        # classes=("cat") is a name, not a tuple of names.
        self._given_classes = (given,) if isinstance(given, str) else given
        self._set_classes(columns, self._given_classes or columns.category_name)
        self._check_image_folder()
        return np.arange(columns.num_images)

    def follow_classes(self, classes: Sequence[str]) -> None:
        """Take over the labels of the training set, or of a checkpoint: label i is ``classes[i]``.

        Categories are found by name. Classes that the file lacks have no annotations, and
        annotations of other categories have no label.

        Raises:
            UserError: If the file has none of the classes, or ``metainfo`` names others.
        """
        self.full_init()
        if tuple(classes) == self._metainfo["classes"]:
            return
        given = self._given_classes
        if given is not None and set(given) != set(classes):
            raise UserError(
                f"{self.ann_file}: 'metainfo.classes' of this dataset names {list_names(given)}, "
                f"but the model is trained on {list_names(classes)}; leave it out here, since "
                "validation and testing follow the classes of the training set by name."
            )
        self._set_classes(self._annotations.columns, classes)

    def load_proposals(self) -> None:
        """Read the proposals, by the last folder and name of an image's path; see mmdet's."""
        path = osp.join(self.data_root, self.proposal_file)
        self._proposals = load(path, backend_args=self.backend_args)

    def filter_data(self) -> np.ndarray:
        """Drop images as ``filter_cfg`` says, like mmdet's ``CocoDataset``.

        Those of at least ``min_size`` pixels are left and, with ``filter_empty_gt``, only those
        with an annotation of one of the classes.
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
        return np.flatnonzero(kept)

    def full_init(self) -> None:
        """Load and filter, then check that the annotations can be trained on.

        Raises:
            UserError: If none of them can, or the pipeline loads masks and one cannot be used.
        """
        if self._fully_initialized:
            return
        super().full_init()
        if any(getattr(step, "with_mask", False) for step in self.pipeline.transforms):
            self._check_masks()
        if not self.test_mode and not self._annotations.can_be_trained(self.data_list):
            report = self.data_report
            reasons = "; ".join(
                f"{finding.count:,} {finding.what}, as {finding.example}"
                for finding in report.findings
                if finding.what.startswith(("dropped", "ignored", "images dropped"))
            )
            raise UserError(
                f"{self.ann_file}: none of its {report.num_annotations:,} annotations can be "
                f"trained on: {reasons}; correct them."
            )

    def get_data_info(self, idx: int) -> dict:
        """Make an item as mmdet's ``CocoDataset`` does, with image-level labels.

        These are ``positive_labels`` and ``negative_labels``, known to be present and absent.
        """
        annotations, image = self.annotations, int(self.data_list[idx])
        columns = annotations.columns
        height, width = columns.image_size[image].tolist()
        img_path, seg_map_path = self.files(image)
        info = {
            "img_path": img_path,
            "img_id": int(columns.image_id[image]),
            "seg_map_path": seg_map_path,
            "height": height,
            "width": width,
            # Tiny instances, which are dropped, are known to be there all the same.
            "positive_labels": annotations.positives(image),
            "negative_labels": annotations.negatives(image),
        }
        if self.return_classes:
            info["text"] = self._metainfo["classes"]
            info["caption_prompt"] = self.caption_prompt
            info["custom_entities"] = True
        if self.proposal_file is not None:
            info["proposals"] = self._proposals["/".join(info["img_path"].split("/")[-2:])]
        info["instances"] = annotations.instances(image)
        info["sample_idx"] = idx if idx >= 0 else len(self) + idx
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of the instances of an item, as in mmdet's ``BaseDetDataset``."""
        return self.annotations.labels[int(self.data_list[idx])].tolist()

    @property
    def class_frequency(self) -> ClassFrequency:
        """Occurrences of each category in the annotation file."""
        return self.annotations.class_frequency

    @property
    def image_ids(self) -> np.ndarray:
        """The ``img_id`` of each item, int64 of shape (images,)."""
        return self.annotations.columns.image_id[self.data_list]

    @property
    def instance_labels(self) -> InstanceLabels:
        """The labels of each image's instances, row i for item i of the dataset."""
        return self.annotations.labels.take(self.data_list)

    @property
    def data_report(self) -> DataReport:
        """What becomes of the annotation file; see :mod:`mmdet_eql.annotations.data_report`."""
        annotations, images = self.annotations, np.asarray(self.data_list)
        return report_data(annotations, self.ann_file, images, not self.test_mode)

    @property
    def annotations(self) -> DatasetAnnotations:
        """The content of the annotation file under the labels of the dataset."""
        self.full_init()
        return self._annotations

    def files(self, image: int) -> tuple[str, str | None]:
        """The files of the image at a position in the annotation file, and of its semantic map."""
        path, seg_map_path = self._path(image), None
        if self.data_prefix.get("seg"):
            stem = osp.splitext(path)[0]
            seg_map_path = osp.join(self.data_prefix["seg"], stem + self.seg_map_suffix)
        return osp.join(self.data_prefix["img"], path), seg_map_path

    def _path(self, image: int) -> str:
        # A remote backend has no folders to look into.
        folder = self.data_prefix["img"] if self._is_local() else None
        return self._annotations.columns.path(image, folder)

    def _is_local(self) -> bool:
        return not self.backend_args or self.backend_args.get("backend") == "local"

    def _check_masks(self) -> None:
        """Raise a UserError if an instance of an image in use has no usable segmentation."""
        columns, used = self._annotations.columns, np.zeros(len(self._annotations.labels), bool)
        used[self.data_list] = True
        used = self._annotations.is_instance & used[columns.annotation_image]
        self._check_rle(used)
        invalid = used & ~np.isin(columns.segmentation_state, (WHOLE, PARTLY))
        if not invalid.any():
            refuse_fractional_polygons(columns, self.ann_file)
            return
        first = invalid.argmax()
        image = columns.annotation_image[first]
        given = columns.given_segmentation(first) or []
        raise UserError(
            f"{self.ann_file}: image {columns.image_id[image]} has an annotation of category "
            f"{columns.category_name[columns.category[first]]!r} (id {columns.annotation_id[first]}"
            f"; {np.count_nonzero(invalid):,} in all) whose 'segmentation' cannot be used: "
            f"{segmentation_problem(given, *columns.image_size[image].tolist())}. Correct it, or "
            "train on boxes alone."
        )

    def _check_rle(self, used: np.ndarray) -> None:
        """Raise a UserError if there is RLE among those used and the pipeline would ignore it."""
        if all(getattr(step, "poly2mask", True) for step in self.pipeline.transforms):
            return
        columns = self._annotations.columns
        used = used & ~columns.crowd & np.isin(columns.segmentation_state, (WHOLE, PARTLY))
        starts = columns.segmentation_range[used, 0]
        num_rle = np.count_nonzero(columns.segmentation_text[starts] == ord("{"))
        if num_rle:
            raise UserError(
                f"{self.ann_file}: the 'segmentation' of {num_rle:,} annotation(s) is RLE, which "
                "'poly2mask=False' ignores; use type='LoadPolygonAnnotations' instead."
            )

    def _set_classes(self, columns: AnnotationColumns, classes: Sequence[str]) -> None:
        """Give the labels 0 to C - 1 to these categories."""
        roots = [name for name in classes if name in columns.left_out_categories]
        if roots and roots[0] not in columns.category_name and not self.test_mode:
            raise UserError(
                f"{self.ann_file}: {roots[0]!r}, which 'metainfo.classes' names, has no annotation "
                "and is the 'supercategory' of other categories; leave it out."
            )
        check_classes(classes, columns.category_name, self.ann_file, not self.test_mode)
        self._annotations = DatasetAnnotations(columns, tuple(classes))
        self._metainfo["classes"] = tuple(classes)

    def _check_image_folder(self) -> None:
        # One look at start-up saves a day in a queue.
        columns = self._annotations.columns
        absolute = columns.path_text[columns.path_start[:-1]] == ord("/")
        for image in np.flatnonzero(absolute).tolist():
            path = self._path(image)
            if osp.isabs(path):
                raise UserError(
                    f"{self.ann_file}: image {columns.image_id[image]} lies at {path!r}, outside "
                    f"the image folder {osp.abspath(self.data_prefix['img'])}; correct its "
                    "'file_name', or data_prefix['img'] in the config."
                )
        if not self._is_local():
            return
        path = osp.abspath(osp.join(self.data_prefix["img"], self._path(0)))
        if not osp.isdir(osp.dirname(path)):
            raise UserError(
                f"{osp.dirname(path)}: no such image folder; correct 'data_prefix' (or "
                f"'data_root') in the config, or put the images of {self.ann_file} there."
            )
        if not osp.isfile(path):
            raise UserError(
                f"{path}: no such image, though {self.ann_file} lists it; "
                "complete the image folder or correct 'data_prefix' in the config."
            )
        warn_of_depth(path)
        if any(getattr(step, "with_seg", False) for step in self.pipeline.transforms):
            path = self.files(0)[1]
            if path is None or not osp.isfile(path):
                raise UserError(
                    f"{path or self.ann_file}: no such semantic map, which LoadAnnotations loads "
                    "(with_seg=True); correct data_prefix['seg'] or 'seg_map_suffix' in the "
                    "config, or put the maps there."
                )
