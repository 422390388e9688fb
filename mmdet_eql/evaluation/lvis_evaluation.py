"""Average precision and recall on LVIS.

The rules, and precision, recall and metrics, are those of lvis-api's ``LVISEval``: the best 300
detections of an image count, over all categories; an image judges only the categories that are
annotated in it or verified absent; where a category is not exhaustively annotated, unmatched
detections are neither right nor wrong.

Glossary, besides that of :mod:`mmdet_eql.evaluation.columns`:
    T: IoU thresholds, by default 10 from 0.5 to 0.95.
    R: recall thresholds, 101 from 0 to 1.
    A: area ranges, 4: all, small, medium and large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmdet_eql.evaluation.boundary_iou import boundary_iou
from mmdet_eql.evaluation.columns import (
    FREQUENCY_GROUPS,
    LVISDetections,
    LVISGroundTruth,
    rank_in_groups,
)
from mmdet_eql.evaluation.matches import Matches, accumulate, match_detections, plain_iou
from mmdet_eql.evaluation.matching import AREA_RANGES, precision_recall
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.json_pieces import pause_garbage_collection
from mmdet_eql.utils.rle import count_pixels

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
#: Detections per image that count, over all categories.
MAX_DETECTIONS = 300
#: IoU of boxes, masks, or masks and their boundaries (:mod:`mmdet_eql.evaluation.boundary_iou`).
IOU_TYPES = ("bbox", "segm", "boundary")


@dataclass(frozen=True, eq=False)
class LVISEvaluation:
    """Precision and recall of detections, and metrics from them.

    Args:
        precision (np.ndarray): Highest precision at each recall or beyond, float64 of shape
            (T, R, C, A); -1 for a category without ground truth in the area range.
        recall (np.ndarray): Recall of all detections, float64 of shape (T, C, A); -1 as above.
        iou_thresholds (np.ndarray): float64 of shape (T,).
        max_detections (int): Detections per image that counted; -1 without a limit.
        category_ids (np.ndarray): int64 of shape (C,).
        category_names (tuple[str]): C names.
        frequencies (np.ndarray, optional): 'r', 'c' or 'f', shape (C,).
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray
    max_detections: int
    category_ids: np.ndarray
    category_names: tuple[str, ...]
    frequencies: np.ndarray | None

    def metrics(self) -> dict[str, float]:
        """Return AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300, ARs@300, ARm@300, ARl@300.

        300 is the number of detections. Metrics are fractions, unrounded, or -1 where there is no
        ground truth. AP50 and AP75 are left out if their IoU threshold was not evaluated, APr, APc
        and APf if the file has no frequencies.
        """
        # Over recalls first: where there is ground truth, each category has as many.
        precision, recall = self.precision.mean(axis=1), self.recall
        metrics = {"AP": _mean(precision[..., 0])}
        for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
            at = np.isclose(self.iou_thresholds, iou)
            if at.any():
                metrics[name] = _mean(precision[at][..., 0])
        sizes = list(enumerate(AREA_RANGES))[1:]
        for index, size in sizes:
            metrics[f"AP{size[0]}"] = _mean(precision[..., index])
        if self.frequencies is not None:
            for group in FREQUENCY_GROUPS:
                metrics[f"AP{group}"] = _mean(precision[:, self.frequencies == group, 0])
        metrics[f"AR@{self.max_detections}"] = _mean(recall[..., 0])
        for index, size in sizes:
            metrics[f"AR{size[0]}@{self.max_detections}"] = _mean(recall[..., index])
        return metrics

    def recall_by_frequency(self) -> dict[str, float]:
        """Return ARr@300, ARc@300 and ARf@300, which lvis-api leaves out, as ``metrics()`` does.

        The result is empty if the file has no frequencies.
        """
        if self.frequencies is None:
            return {}
        return {
            f"AR{group}@{self.max_detections}": _mean(self.recall[:, self.frequencies == group, 0])
            for group in FREQUENCY_GROUPS
        }

    def category_ap(self) -> np.ndarray:
        """Return the AP of each category: float64 of shape (C,), NaN without ground truth."""
        precision = self.precision[..., 0]
        # A category has ground truth at all thresholds or at none.
        return np.where(precision[0, 0] > -1, precision.mean(axis=(0, 1)), np.nan)


def evaluate_detections(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int | None = MAX_DETECTIONS,
) -> LVISEvaluation:
    """Compare detections with ground truth by the rules of LVIS.

    Args:
        ground_truth (LVISGroundTruth): Annotations; with masks for 'segm' and 'boundary'.
        detections (LVISDetections): Boxes for 'bbox', masks for 'segm' and 'boundary'.
        iou_type (str): 'bbox', 'segm' or 'boundary'.
        iou_thresholds (np.ndarray): T numbers.
        max_detections (int, optional): Detections per image that count. None for all.

    Raises:
        UserError: If ``iou_type`` is unknown, or a mask is not of the size of its image.

    Example:
        >>> truth = read_ground_truth("lvis_v1_val.json")  # doctest: +SKIP
        >>> detections = read_results("model.bbox.json", truth, "bbox")  # doctest: +SKIP
        >>> metrics = evaluate_detections(truth, detections, "bbox").metrics()  # doctest: +SKIP
        >>> metrics["AP"], metrics["APr"], metrics["AR@300"]  # doctest: +SKIP
    """
    check_iou_type(iou_type)
    iou_thresholds = np.asarray(iou_thresholds, dtype=np.float64)
    with pause_garbage_collection():
        if iou_type == "boundary":
            ranges = list(AREA_RANGES.values())
            matches = match(
                ground_truth, detections, iou_type, iou_thresholds, max_detections, ranges
            )
            precision, recall = accumulate(matches, ground_truth)
        else:
            index, area = _detections_that_count(ground_truth, detections, iou_type, max_detections)
            detections = _at(detections, index)
            precision, recall = precision_recall(
                ground_truth, detections, area, iou_type, iou_thresholds
            )
    return LVISEvaluation(
        precision,
        recall,
        iou_thresholds,
        -1 if max_detections is None else max_detections,
        ground_truth.category_ids,
        ground_truth.category_names,
        ground_truth.frequencies,
    )


def match(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int | None = MAX_DETECTIONS,
    area_ranges: Sequence[tuple[float, float]] = (AREA_RANGES["all"],),
) -> Matches:
    """Return what :func:`evaluate_detections` decides on each detection.

    Arguments are those of :func:`evaluate_detections`, and ``area_ranges``, A pairs of inclusive
    limits in square pixels.
    """
    check_iou_type(iou_type)
    index, area = _detections_that_count(ground_truth, detections, iou_type, max_detections)
    detections, iou_thresholds = _at(detections, index), np.asarray(iou_thresholds)
    iou = iou_function(ground_truth, detections, iou_type, iou_thresholds.min())
    matches = match_detections(ground_truth, detections, area, iou, iou_thresholds, area_ranges)
    return replace(matches, index=index[matches.index])


def iou_function(
    ground_truth: LVISGroundTruth, detections: LVISDetections, iou_type: str, lowest: float
) -> Callable:
    """Return the IoU for :func:`mmdet_eql.evaluation.matches.match_detections`.

    Of boundaries, values below ``lowest`` may be too high, but not above it.
    """
    if iou_type == "boundary":
        return boundary_iou(ground_truth, detections, min(lowest, 1 - 1e-10))
    return plain_iou(ground_truth, detections, iou_type == "segm")


def check_iou_type(iou_type: str) -> None:
    """Raise a UserError unless a name is 'bbox', 'segm' or 'boundary'."""
    if iou_type not in IOU_TYPES:
        raise UserError(f"iou_type is {iou_type!r}; it must be 'bbox', 'segm' or 'boundary'.")


def _detections_that_count(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    max_detections: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the limit per image, then drop what the image does not judge, or has no area.

    The limit comes first: a detection of a category that nobody looked for still takes a place.
    Returns the positions of those that count, and their areas.
    """
    image = detections.image
    counts = np.ones(len(image), dtype=bool)
    if max_detections is not None:
        crowded = np.flatnonzero((np.bincount(image) > max_detections)[image])
        rank = rank_in_groups(image[crowded], detections.score[crowded])
        counts[crowded[rank >= max_detections]] = False
    if ground_truth.judged is not None:
        group = image * len(ground_truth.category_ids) + detections.category
        counts &= np.isin(group, ground_truth.judged)
    index = np.flatnonzero(counts)
    area = detection_areas(ground_truth, _at(detections, index), iou_type)
    has_area = (area > 0) & (area < np.inf)
    return index[has_area], area[has_area]


def _at(detections: LVISDetections, index: np.ndarray) -> LVISDetections:
    """Detections at ascending positions; no copy of all of them."""
    return detections if len(index) == len(detections.score) else detections.take(index)


def detection_areas(
    ground_truth: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> np.ndarray:
    """Measure detections in square pixels (float64 of shape (D,)), and check the size of masks.

    Raises:
        UserError: If a mask is not of the size of its image.
    """
    if iou_type != "bbox":
        area, num_pixels = count_pixels(detections.masks)
        sizes = ground_truth.image_sizes[detections.image]
        wrong = np.flatnonzero(num_pixels != sizes.prod(axis=1))
        if len(wrong):
            first = wrong[0]
            raise UserError(
                f"image {ground_truth.image_ids[detections.image[first]]}: a detected mask of "
                f"category {ground_truth.category_names[detections.category[first]]!r} is not "
                f"compressed RLE of {sizes[first, 0]}x{sizes[first, 1]} pixels (height x width), "
                "the size of its image; correct the masks."
            )
        if detections.boxes is None:
            return area.astype(np.float64)
    return detections.boxes[:, 2] * detections.boxes[:, 3]


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0
