"""The LVIS metric of a config: ``val_evaluator = dict(type='LVISFastMetric', ann_file=...)``."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any, NoReturn

import numpy as np
import torch
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine import fileio
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from mmdet_eql.annotations.checks import load_lvis_json
from mmdet_eql.annotations.dataset_annotations import DatasetAnnotations
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.evaluation.lvis_evaluation import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    LVISDetections,
    LVISEvaluation,
    LVISGroundTruth,
    evaluate_detections,
)
from mmdet_eql.evaluation.lvis_results import (
    box_records,
    mask_records,
    read_ground_truth,
    write_json,
    write_results,
)
from mmdet_eql.evaluation.proposal_recall import proposal_recall
from mmdet_eql.utils.errors import UserError

_INSTANCE_METRICS = ("bbox", "segm")
_PROPOSAL_METRICS = ("proposal", "proposal_fast")
_AP_ITEMS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
_AR_ITEMS = ("AR", "ARs", "ARm", "ARl")
_AR_ITEMS_BY_FREQUENCY = ("ARr", "ARc", "ARf")
_ITEMS_BY_FREQUENCY = ("APr", "APc", "APf", *_AR_ITEMS_BY_FREQUENCY)


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """What a model found in one image, small enough to send between processes.

    It is no container that mmengine would walk through, mask by mask, in search of tensors.

    Args:
        image_id (int): Id of the image.
        labels (np.ndarray): Labels, int64 of shape (N,).
        boxes (np.ndarray): x1, y1, x2, y2 in pixels, floating point of shape (N, 4).
        scores (np.ndarray): Floating point of shape (N,).
        masks (list[bytes], optional): Compressed RLE ``counts``, N of them.
        mask_size (tuple[int, int]): Height and width of the masks in pixels.
        mask_scores (np.ndarray): Scores of the masks, shape (N,).
        num_dropped (int): Detections left out because a coordinate or score is not finite.
    """

    image_id: int
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: list[bytes] | None
    mask_size: tuple[int, int] | None
    mask_scores: np.ndarray
    num_dropped: int

    def boxes_xywh(self) -> np.ndarray:
        """Boxes as x, y, width, height: float64 of shape (N, 4)."""
        boxes = self.boxes.astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


@METRICS.register_module()
class LVISFastMetric(BaseMetric):
    """LVIS evaluation with the arguments of mmdet's ``LVISMetric``.

    The figures are those of lvis-api (https://github.com/lvis-dataset/lvis-api), unrounded: AP,
    AP50, AP75, by size of the object APs, APm, APl, by frequency of the category in the training
    set APr, APc, APf, as ``lvis/bbox_AP``, ``lvis/segm_APr`` and so on. -1 stands for a figure
    without ground truth. All images of the annotation file count, predicted or not.

    Labels are positions in the classes of the dataset, matched by name with the categories of the
    annotation file; without names, positions among its categories sorted by id. If the dataset has
    only some of the categories, only these are evaluated.

    In a COCO file, no image says which categories were looked for in it. Then all of them were, as
    in COCO's own evaluation: every detection counts, and crowd regions are ignored. A line in the
    log says so, and where the groups of APr, APc and APf come from.

    Masks are measured by their own area, as lvis-api does with results without boxes; mmdet's
    ``LVISMetric`` hands it boxes too, and its mask APs, APm, APl go by box area.

    Args:
        ann_file (str): Annotation file in LVIS or COCO format. Without annotations, as for the test
            server, it serves ``format_only``.
        metric (str | Sequence[str]): 'bbox' and 'segm', or class-agnostic recall of boxes:
            'proposal' matches them by score as AP does and gives ``AR@300``, ``ARs@300``,
            ``ARm@300``, ``ARl@300`` for each of ``proposal_nums``; 'proposal_fast' takes the best
            match of each object and gives ``AR@300`` and so on.
        classwise (bool): Whether to add the AP of each category, as ``lvis/bbox_zebra_precision``
            (NaN without ground truth), log a table, and, if ``outfile_prefix`` is set, write
            ``{outfile_prefix}.classwise.json``.
        proposal_nums (Sequence[int]): Proposals per image that count for 'proposal' and
            'proposal_fast'; for 'bbox' and 'segm' LVIS has 300.
        iou_thrs (float | Sequence[float], optional): IoU thresholds to average over. Defaults to
            0.5, 0.55, ..., 0.95.
        metric_items (Sequence[str], optional): Figures to return. Defaults to all AP figures for
            'bbox' and 'segm', which also have ``AR@300``, by size ``ARs@300``, ``ARm@300``,
            ``ARl@300``, and by frequency ``ARr@300``, ``ARc@300``, ``ARf@300``; and to all AR
            figures for proposals.
        format_only (bool): Whether to write result files and evaluate nothing.
        outfile_prefix (str, optional): Where to write ``{outfile_prefix}.bbox.json`` and, if the
            model gives masks, ``{outfile_prefix}.segm.json``. Defaults to writing none.
        collect_device (str): 'cpu' or 'gpu', how results of several processes are collected.
        prefix (str, optional): Prefix of the names of the figures. Defaults to 'lvis'.
        file_client_args (dict, optional): Gone from mmdet; use ``backend_args``.
        backend_args (dict, optional): mmengine's file backend for ``ann_file``.
        train_ann_file (str, optional): Annotation file of the training set, whose counts of images
            sort the categories into the groups of APr, APc and APf. Defaults to the groups that
            ``ann_file`` names, as LVIS's do.

    Attributes:
        evaluations (dict[str, LVISEvaluation]): Of the last evaluation, by metric: precision and
            recall arrays, and the AP of each category by ``category_ap()``. On the main process.

    Raises:
        UserError: If an argument cannot be followed, or the predictions do not fit the file.

    Example:
        >>> metric = LVISFastMetric(
        ...     ann_file="data/lvis_v1/annotations/lvis_v1_val.json",
        ...     metric=["bbox", "segm"],
        ... )  # doctest: +SKIP
    """

    default_prefix = "lvis"

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
        train_ann_file: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file = ann_file
        self.metrics = _as_tuple(metric)
        self.classwise = classwise
        self.proposal_nums = _as_tuple(proposal_nums)
        self.iou_thrs = IOU_THRESHOLDS if iou_thrs is None else _as_tuple(iou_thrs)
        self.metric_items = None if metric_items is None else _as_tuple(metric_items)
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.train_ann_file = train_ann_file
        self.evaluations: dict[str, LVISEvaluation] = {}
        self._ground_truth: LVISGroundTruth | None = None

        if file_client_args is not None:
            raise UserError(
                "LVISFastMetric: 'file_client_args' is gone from MMDetection; use 'backend_args'."
            )
        self._check_metrics()
        self._check_numbers()
        self._check_metric_items()
        self._check_files()
        self.iou_thrs = np.asarray(self.iou_thrs, dtype=np.float64)

    # --- arguments --------------------------------------------------------------------------------

    def _check_metrics(self) -> None:
        allowed = _INSTANCE_METRICS + _PROPOSAL_METRICS
        unknown = [name for name in self.metrics if name not in allowed]
        if unknown or not self.metrics:
            raise UserError(
                f"LVISFastMetric: 'metric' is {self.metrics!r}; choose among {', '.join(allowed)}."
            )
        if set(self.metrics) >= set(_PROPOSAL_METRICS):
            raise UserError(
                "LVISFastMetric: 'proposal' and 'proposal_fast' both give AR@N; use two evaluators "
                "with different 'prefix'."
            )
        if self.classwise and not set(self.metrics) & set(_INSTANCE_METRICS):
            raise UserError(
                "LVISFastMetric: 'classwise' needs the metric 'bbox' or 'segm'; the recall of "
                "proposals is blind to categories."
            )
        if self.collect_device not in ("cpu", "gpu"):
            raise UserError(
                f"LVISFastMetric: 'collect_device' is {self.collect_device!r}; it must be 'cpu' or "
                "'gpu'."
            )

    def _check_numbers(self) -> None:
        if not self.proposal_nums or not all(
            type(num) is int and num > 0 for num in self.proposal_nums
        ):
            raise UserError(
                f"LVISFastMetric: 'proposal_nums' is {self.proposal_nums!r}; give whole numbers "
                "above 0."
            )
        if not len(self.iou_thrs) or not all(
            isinstance(threshold, (int, float)) and 0 < threshold <= 1
            for threshold in self.iou_thrs
        ):
            raise UserError(
                f"LVISFastMetric: 'iou_thrs' is {self.iou_thrs!r}; give IoU thresholds above 0 and "
                "up to 1."
            )

    def _check_metric_items(self) -> None:
        if self.metric_items is None:
            return
        known = set()
        if set(self.metrics) & set(_INSTANCE_METRICS):
            items = _AR_ITEMS + _AR_ITEMS_BY_FREQUENCY
            known.update(_AP_ITEMS, (f"{item}@{MAX_DETECTIONS}" for item in items))
        if "proposal" in self.metrics:
            known.update(f"{item}@{num}" for item in _AR_ITEMS for num in self.proposal_nums)
        if "proposal_fast" in self.metrics:
            known.update(f"AR@{num}" for num in self.proposal_nums)
        unknown = [item for item in self.metric_items if item not in known]
        if unknown:
            raise UserError(
                f"LVISFastMetric: 'metric_items' names {unknown[0]!r}, which "
                f"{', '.join(self.metrics)} does not give; choose among {', '.join(sorted(known))}."
            )
        for item, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            if item in self.metric_items and not np.isclose(self.iou_thrs, threshold).any():
                raise UserError(
                    f"LVISFastMetric: 'metric_items' names {item}, but 'iou_thrs' does not hold "
                    f"{threshold}; add it there or remove {item}."
                )

    def _check_files(self) -> None:
        if self.ann_file is None:
            raise UserError(
                "LVISFastMetric: 'ann_file' is not set; LVIS evaluation needs the annotation file, "
                "since data samples do not carry the categories verified absent from an image."
            )
        for name, path in (("ann_file", self.ann_file), ("train_ann_file", self.train_ann_file)):
            if path is None:
                continue
            backend = fileio.get_file_backend(path, backend_args=self.backend_args)
            # Asked of local files alone: not every remote backend can tell.
            if isinstance(backend, fileio.LocalBackend) and not backend.isfile(path):
                raise UserError(
                    f"{path}: no such annotation file; correct '{name}' of the evaluator in the "
                    "config, or prepare the dataset as the README describes."
                )
        if self.format_only and not self.outfile_prefix:
            raise UserError(
                "LVISFastMetric: 'format_only' writes result files and nothing else; set "
                "'outfile_prefix' to say where."
            )

    # --- collecting predictions -------------------------------------------------------------------

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what the model found in a batch of images.

        Args:
            data_batch (Any): Not looked at.
            data_samples (Sequence[dict]): One per image, with ``img_id`` and ``pred_instances``:
                ``bboxes`` (x1, y1, x2, y2 in pixels of the original image, shape (N, 4)),
                ``scores`` and ``labels`` of shape (N,), and, where the model gives them, ``masks``
                (bool of shape (N, H, W), or N masks as compressed RLE) and ``mask_scores``.

        Raises:
            UserError: If 'segm' is asked for and there are no masks, or a label is out of range.
        """
        for sample in data_samples:
            self.results.append(self._predictions(sample))

    def _predictions(self, sample: dict) -> ImagePredictions:
        pred = sample["pred_instances"]
        image_id = int(sample["img_id"])
        labels = _to_numpy(pred["labels"]).astype(np.int64)
        boxes = _to_numpy(pred["bboxes"]).reshape(-1, 4)
        scores = _to_numpy(pred["scores"])
        mask_scores = _to_numpy(pred["mask_scores"]) if "mask_scores" in pred else scores
        classes = (self.dataset_meta or {}).get("classes")
        if classes is not None and len(labels) and labels.max() >= len(classes):
            self._refuse_label(labels.max(), len(classes))

        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(mask_scores)
        kept = np.flatnonzero(finite)
        masks, mask_size = None, None
        if "masks" in pred:
            # Result files hold masks whether or not they are evaluated.
            if "segm" in self.metrics or self.outfile_prefix:
                masks, mask_size = _encode_masks(pred["masks"], kept, image_id)
        elif "segm" in self.metrics:
            raise UserError(
                f"LVISFastMetric: metric 'segm' needs masks, but the model gives none for image "
                f"{image_id}; use metric='bbox' with this model."
            )
        return ImagePredictions(
            image_id=image_id,
            labels=labels[kept],
            boxes=boxes[kept],
            scores=scores[kept],
            masks=masks,
            mask_size=mask_size,
            mask_scores=mask_scores[kept],
            num_dropped=len(finite) - len(kept),
        )

    # --- evaluation -------------------------------------------------------------------------------

    def compute_metrics(self, results: list[ImagePredictions]) -> dict[str, float]:
        """Evaluate, write result files, or both.

        Args:
            results (list[ImagePredictions]): Of all images, in any order.

        Returns:
            dict[str, float]: Figures by name; empty with ``format_only``.

        Raises:
            UserError: If the predictions do not fit the annotation file.
        """
        logger = MMLogger.get_current_instance()
        results = self._without_repetitions(results, logger)
        num_dropped = sum(result.num_dropped for result in results)
        if num_dropped:
            logger.warning(
                f"{num_dropped:,} detections left out: a coordinate or score is not a finite "
                "number. Has training diverged?"
            )
        if self.format_only:
            category_of_label = self._category_of_label(self._load_categories(), logger)
            self._check_labels(results, len(category_of_label))
            self._write_results(results, category_of_label, logger)
            return {}

        ground_truth = self._load_ground_truth(logger)
        categories = dict(
            zip(ground_truth.category_ids.tolist(), ground_truth.category_names, strict=True)
        )
        category_of_label = self._category_of_label(categories, logger)
        self._check_labels(results, len(category_of_label))
        self._check_images(results, ground_truth, logger)
        if self.outfile_prefix:
            self._write_results(results, category_of_label, logger)
        if not any(len(result.labels) for result in results):
            logger.warning("The model found nothing in any image: precision and recall are 0.")
        if len(category_of_label) < len(categories):
            logger.info(
                f"Evaluating the {len(category_of_label)} classes of the dataset, of the "
                f"{len(categories)} categories of {self.ann_file}."
            )
            ground_truth = ground_truth.select_categories(category_of_label)

        self.evaluations = {}
        figures = {}
        for metric in self.metrics:
            detections = self._detections(results, ground_truth, category_of_label, metric)
            if metric in _INSTANCE_METRICS:
                figures.update(self._evaluate_instances(ground_truth, detections, metric, logger))
            else:
                figures.update(self._evaluate_proposals(ground_truth, detections, metric, logger))
        if self.evaluations:
            logger.info(_summary_table(self.evaluations))
        if self.classwise and self.outfile_prefix:
            self._write_classwise(ground_truth, logger)
        return figures

    def _evaluate_instances(
        self,
        ground_truth: LVISGroundTruth,
        detections: LVISDetections,
        metric: str,
        logger: logging.Logger,
    ) -> dict[str, float]:
        evaluation = evaluate_detections(ground_truth, detections, metric, self.iou_thrs)
        self.evaluations[metric] = evaluation
        figures = evaluation.figures() | evaluation.recall_by_frequency()
        items = self.metric_items
        if items is None:
            items = [item for item in _AP_ITEMS if item in figures]
        elif evaluation.frequencies is None and any(
            item.split("@")[0] in _ITEMS_BY_FREQUENCY for item in items
        ):
            raise UserError(
                f"{self.ann_file}: the categories have no field 'frequency', which figures of "
                f"rare, common and frequent categories ({', '.join(_ITEMS_BY_FREQUENCY)}) need; "
                "add it, set 'train_ann_file', or remove these from 'metric_items'."
            )
        returned = {f"{metric}_{item}": figures[item] for item in items if item in figures}
        if self.classwise:
            names, category_ap = evaluation.category_names, evaluation.category_ap().tolist()
            logger.info(_category_table(metric, names, category_ap))
            for name, ap in zip(names, category_ap, strict=True):
                returned[f"{metric}_{name}_precision"] = ap
        return returned

    def _evaluate_proposals(
        self,
        ground_truth: LVISGroundTruth,
        detections: LVISDetections,
        metric: str,
        logger: logging.Logger,
    ) -> dict[str, float]:
        figures = {}
        if metric == "proposal_fast":
            recall = proposal_recall(ground_truth, detections, self.proposal_nums, self.iou_thrs)
            for num, value in zip(self.proposal_nums, recall.mean(axis=1).tolist(), strict=True):
                figures[f"AR@{num}"] = value
        else:
            objects = ground_truth.merge_categories()
            for num in self.proposal_nums:
                evaluation = evaluate_detections(objects, detections, "bbox", self.iou_thrs, num)
                of_num = evaluation.figures()
                figures.update({f"{item}@{num}": of_num[f"{item}@{num}"] for item in _AR_ITEMS})
        if self.metric_items is not None:
            figures = {item: value for item, value in figures.items() if item in self.metric_items}
        logger.info(_table([[metric, *figures], ["", *map(_percent, figures.values())]]))
        return figures

    # --- what belongs together --------------------------------------------------------------------

    def _load_ground_truth(self, logger: logging.Logger) -> LVISGroundTruth:
        if self._ground_truth is None:
            ground_truth = read_ground_truth(
                self.ann_file, "segm" in self.metrics, self.backend_args
            )
            if self.train_ann_file is not None:
                groups = self._count_groups(ground_truth.category_names)
                ground_truth = replace(ground_truth, frequencies=groups)
            self._ground_truth = ground_truth
        self._log_protocol(self._ground_truth, logger)
        return self._ground_truth

    def _count_groups(self, category_names: Sequence[str]) -> np.ndarray:
        """'r', 'c' or 'f' of each category, from the training annotations."""
        columns = read_annotations(self.train_ann_file, self.backend_args)
        id_of = dict(zip(columns.category_name, columns.category_id.tolist(), strict=True))
        unknown = [name for name in category_names if name not in id_of]
        if unknown:
            raise UserError(
                f"{self.train_ann_file}: has no category {unknown[0]!r}, which {self.ann_file} "
                "has; give the annotation file that the model is trained on."
            )
        category_ids = [id_of[name] for name in category_names]
        return DatasetAnnotations(columns, category_ids).class_frequency.group

    def _log_protocol(self, ground_truth: LVISGroundTruth, logger: logging.Logger) -> None:
        if ground_truth.labelled is not None and self.train_ann_file is None:
            return  # LVIS's own
        looked_for = (
            "no image has 'neg_category_ids', so every category counts as looked for in every image"
            if ground_truth.labelled is None
            else "categories count where they are annotated or verified absent"
        )
        if self.train_ann_file is not None:
            groups = f"by the number of images in {self.train_ann_file}"
        elif ground_truth.frequencies is not None:
            groups = "by the field 'frequency'"
        else:
            groups = "left out, as neither 'frequency' nor 'train_ann_file' is given"
        logger.info(f"{self.ann_file}: {looked_for}; APr, APc and APf are {groups}.")

    def _load_categories(self) -> dict[int, str]:
        """Read names by category id alone: files for the test server have no annotations."""
        try:
            data = fileio.load(self.ann_file, file_format="json", backend_args=self.backend_args)
            return {int(record["id"]): record["name"] for record in data["categories"]}
        except (OSError, ValueError, KeyError, TypeError):
            # The full check says what is wrong with the file.
            data = load_lvis_json(self.ann_file, self.backend_args)
            return {record["id"]: record["name"] for record in data["categories"]}

    def _category_of_label(self, categories: dict[int, str], logger: logging.Logger) -> np.ndarray:
        """Category id of each label: int64 of shape (number of labels,)."""
        by_position = sorted(categories)
        classes = (self.dataset_meta or {}).get("classes")
        if classes is None:
            return np.array(by_position, dtype=np.int64)
        id_of = {name: category_id for category_id, name in categories.items()}
        unknown = [name for name in classes if name not in id_of]
        if not unknown and len(id_of) == len(categories):
            return np.array([id_of[name] for name in classes], dtype=np.int64)
        if len(classes) != len(categories):
            problem = (
                f"has no category {unknown[0]!r}" if unknown else "has several categories of a name"
            )
            raise UserError(
                f"{self.ann_file}: {problem}, and {len(categories)} categories where the dataset "
                f"has {len(classes)} classes; give dataset and evaluator the same annotation "
                "format, or correct 'metainfo.classes'."
            )
        logger.warning(
            f"{self.ann_file}: classes of the dataset cannot be found by name"
            + (f" (such as {unknown[0]!r})" if unknown else "")
            + "; labels are taken as positions among the categories sorted by id."
        )
        return np.array(by_position, dtype=np.int64)

    def _without_repetitions(
        self, results: list[ImagePredictions], logger: logging.Logger
    ) -> list[ImagePredictions]:
        by_image = {}
        for result in results:
            by_image.setdefault(result.image_id, result)
        if len(by_image) < len(results):
            logger.warning(
                f"{len(results) - len(by_image):,} images were predicted more than once; the first "
                "prediction counts."
            )
        return list(by_image.values())

    def _check_images(
        self,
        results: list[ImagePredictions],
        ground_truth: LVISGroundTruth,
        logger: logging.Logger,
    ) -> None:
        size_of = dict(
            zip(ground_truth.image_ids.tolist(), ground_truth.image_sizes.tolist(), strict=True)
        )
        for result in results:
            size = size_of.get(result.image_id)
            if size is None:
                raise UserError(
                    f"{self.ann_file}: has no image {result.image_id}, which the model was tested "
                    "on; give the evaluator the 'ann_file' of the dataset."
                )
            if "segm" in self.metrics and result.masks and list(result.mask_size) != size:
                raise UserError(
                    f"{self.ann_file}: image {result.image_id} is annotated with {size[0]}x"
                    f"{size[1]} pixels (height x width), but its predicted masks have "
                    f"{result.mask_size[0]}x{result.mask_size[1]}; correct the annotation, or test "
                    "on images of the original size."
                )
        if len(results) < len(size_of):
            logger.warning(
                f"{len(size_of) - len(results):,} of {len(size_of):,} images of {self.ann_file} "
                "were not predicted; their objects count as missed."
            )

    def _check_labels(self, results: list[ImagePredictions], num_classes: int) -> None:
        for result in results:
            if len(result.labels) and result.labels.max() >= num_classes:
                self._refuse_label(result.labels.max(), num_classes)

    def _refuse_label(self, label: int, num_classes: int) -> NoReturn:
        raise UserError(
            f"{self.ann_file}: the model predicts label {label}, but there are {num_classes} "
            "classes; set 'num_classes' of its heads to that number."
        )

    def _detections(
        self,
        results: list[ImagePredictions],
        ground_truth: LVISGroundTruth,
        category_of_label: np.ndarray,
        metric: str,
    ) -> LVISDetections:
        """Bring the predictions of all images into columns."""
        category_at = np.searchsorted(ground_truth.category_ids, category_of_label)
        image_ids = np.array([result.image_id for result in results], dtype=np.int64)
        image_at = np.searchsorted(ground_truth.image_ids, image_ids)
        blocks = [_no_detections(with_masks=metric == "segm")]
        for position, result in zip(image_at.tolist(), results, strict=True):
            count = len(result.labels)
            scores = result.mask_scores if metric == "segm" else result.scores
            blocks.append(
                LVISDetections(
                    image=np.full(count, position, dtype=np.int64),
                    category=category_at[result.labels]
                    if metric in _INSTANCE_METRICS
                    else np.zeros(count, dtype=np.int64),
                    score=scores.astype(np.float64),
                    boxes=None if metric == "segm" else result.boxes_xywh(),
                    masks=np.array(result.masks, dtype=object) if metric == "segm" else None,
                )
            )
        return LVISDetections.concatenate(blocks)

    # --- files ------------------------------------------------------------------------------------

    def _write_results(
        self,
        results: list[ImagePredictions],
        category_of_label: np.ndarray,
        logger: logging.Logger,
    ) -> None:
        paths = [f"{self.outfile_prefix}.bbox.json"]
        write_results(paths[0], _records_of_boxes(results, category_of_label))
        if any(result.masks is not None for result in results):
            paths.append(f"{self.outfile_prefix}.segm.json")
            write_results(paths[1], _records_of_masks(results, category_of_label))
        logger.info(f"Results written to {' and '.join(paths)}.")

    def _write_classwise(self, ground_truth: LVISGroundTruth, logger: logging.Logger) -> None:
        path = f"{self.outfile_prefix}.classwise.json"
        num_annotations = np.bincount(
            ground_truth.category, minlength=len(ground_truth.category_ids)
        ).tolist()
        category_ap = {
            metric: evaluation.category_ap().tolist()
            for metric, evaluation in self.evaluations.items()
        }
        categories = []
        for index, category_id in enumerate(ground_truth.category_ids.tolist()):
            category = {"id": category_id, "name": ground_truth.category_names[index]}
            if ground_truth.frequencies is not None:
                category["frequency"] = str(ground_truth.frequencies[index])
            category["num_annotations"] = num_annotations[index]
            for metric, values in category_ap.items():
                category[f"{metric}_AP"] = None if math.isnan(values[index]) else values[index]
            categories.append(category)
        write_json(path, {"ann_file": self.ann_file, "categories": categories})
        logger.info(f"AP of each category written to {path}.")


# --- predictions ----------------------------------------------------------------------------------


def _as_tuple(value: Any) -> tuple:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(dict.fromkeys(value))


def _to_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _encode_masks(
    masks: torch.Tensor | np.ndarray | Sequence[dict], kept: np.ndarray, image_id: int
) -> tuple[list[bytes], tuple[int, int]]:
    """Encode the kept masks of an image, unless the model did.

    Returns:
        tuple: Compressed RLE ``counts``, and height and width of the masks.
    """
    if isinstance(masks, (torch.Tensor, np.ndarray)):
        masks = _to_numpy(masks)
        size = masks.shape[-2:]
        rles = encode_mask_results(masks[kept])
    else:
        rles = [masks[index] for index in kept]
        sizes = {tuple(rle["size"]) for rle in masks}
        if len(sizes) > 1:
            raise UserError(
                f"LVISFastMetric: the masks of image {image_id} differ in size ({sorted(sizes)}); "
                "the model must give all in the size of the image."
            )
        size = sizes.pop() if sizes else (0, 0)
    counts = [rle["counts"] for rle in rles]
    counts = [text.encode("ascii") if isinstance(text, str) else text for text in counts]
    return counts, (int(size[0]), int(size[1]))


def _no_detections(with_masks: bool) -> LVISDetections:
    return LVISDetections(
        image=np.zeros(0, dtype=np.int64),
        category=np.zeros(0, dtype=np.int64),
        score=np.zeros(0),
        boxes=None if with_masks else np.zeros((0, 4)),
        masks=np.zeros(0, dtype=object) if with_masks else None,
    )


def _records_of_boxes(
    results: list[ImagePredictions], category_of_label: np.ndarray
) -> Iterator[list[dict]]:
    for result in results:
        yield box_records(
            result.image_id,
            category_of_label[result.labels],
            result.boxes_xywh(),
            result.scores.astype(np.float64),
        )


def _records_of_masks(
    results: list[ImagePredictions], category_of_label: np.ndarray
) -> Iterator[list[dict]]:
    for result in results:
        if result.masks is not None:
            yield mask_records(
                result.image_id,
                category_of_label[result.labels],
                result.masks,
                result.mask_size,
                result.mask_scores.astype(np.float64),
            )


# --- tables ---------------------------------------------------------------------------------------


def _summary_table(evaluations: dict[str, LVISEvaluation]) -> str:
    figures = {metric: evaluation.figures() for metric, evaluation in evaluations.items()}
    items = [item for item in _AP_ITEMS if any(item in of for of in figures.values())]
    rows = [["LVIS (%)", *items]]
    for metric, values in figures.items():
        rows.append([metric, *(_percent(values[item]) for item in items)])
    return _table(rows)


def _category_table(metric: str, names: Sequence[str], category_ap: Sequence[float]) -> str:
    cells = chain.from_iterable(
        (name, _percent(ap)) for name, ap in zip(names, category_ap, strict=True)
    )
    num_pairs = min(3, len(names))
    header = ["category", f"{metric} AP (%)"] * num_pairs
    return _table([header, *zip_longest(*[cells] * len(header), fillvalue="")])


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n" + AsciiTable([list(row) for row in rows]).table


def _percent(fraction: float) -> str:
    """A fraction in percent, or a dash where there is no ground truth."""
    return f"{100 * fraction:.2f}" if fraction >= 0 else "-"
