"""AP of the best detections of each category: Fixed AP and pooled AP.

Both are of Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details"
(arXiv 2102.01066): the best 10,000 detections of each category over the whole set count, and there
is no limit per image, so that categories do not compete for places.

- *Fixed AP* is else AP as in lvis-api: the mean over categories.
- *Pooled AP* has the detections of all categories in one precision-recall curve, all and those of
  rare, common and frequent categories, so that scores must be comparable between categories.
"""

import warnings
from dataclasses import replace

import numpy as np

from mmdet_eql.evaluation.columns import (
    FREQUENCY_GROUPS,
    LVISDetections,
    LVISGroundTruth,
    rank_in_groups,
)
from mmdet_eql.evaluation.lvis_evaluation import IOU_THRESHOLDS, evaluate_detections, match
from mmdet_eql.evaluation.matches import interpolate_precision

#: Detections of each category that count.
MAX_PER_CATEGORY = 10_000


def best_of_categories(
    detections: LVISDetections, ground_truth: LVISGroundTruth, number: int = MAX_PER_CATEGORY
) -> tuple[LVISDetections, int]:
    """Select the best detections of each category, in their order, without boxes of masks.

    Of equal scores the first ones are taken. Masks lose their boxes so that areas are those of the
    masks.

    Returns:
        tuple: The detections, and how many categories have fewer than ``number``.
    """
    counts = np.bincount(detections.category, minlength=len(ground_truth.category_ids))
    kept = rank_in_groups(detections.category, detections.score) < number
    best = detections if kept.all() else detections.take(kept)
    if best.masks is not None:
        best = replace(best, boxes=None)
    return best, int((counts < number).sum())


def best_of_category_metrics(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    fixed: int | None = None,
    pooled: int | None = None,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    source: str = "",
) -> dict[str, float]:
    """Return Fixed AP, pooled AP, both or nothing.

    Args:
        ground_truth (LVISGroundTruth): Annotations; with masks for 'segm' and 'boundary'.
        detections (LVISDetections): All detections of the model, not its best 300 per image.
        iou_type (str): 'bbox', 'segm' or 'boundary'.
        fixed (int, optional): For ``fixed_AP``, ``fixed_AP50``, ..., ``fixed_APf``: detections of
            each category that count.
        pooled (int, optional): For ``pooled_AP``, ``pooled_AP50``, ``pooled_AP75``, ``pooled_APr``,
            ``pooled_APc`` and ``pooled_APf``, likewise.
        iou_thresholds (np.ndarray): T numbers.
        source (str): What the warning begins with, such as ``"a.json: "``.

    Returns:
        dict[str, float]: Fractions, or -1 without ground truth. A warning says how many categories
        have fewer detections than may count.
    """
    metrics, few = {}, {}
    for name, number in (("fixed", fixed), ("pooled", pooled)):
        if not number:
            continue
        best, few[number] = best_of_categories(detections, ground_truth, number)
        if name == "fixed":
            evaluation = evaluate_detections(ground_truth, best, iou_type, iou_thresholds, None)
            values = evaluation.metrics()
        else:
            values = pooled_ap(ground_truth, best, iou_type, iou_thresholds)
        metrics |= {f"{name}_{key}": value for key, value in values.items() if "@" not in key}
    for number, categories in few.items():
        if categories:
            warnings.warn(
                f"{source}{categories:,} of the {len(ground_truth.category_ids):,} categories have "
                f"fewer than {number:,} detections; Fixed AP and pooled AP rise if the model is "
                "asked for more: no limit per image, and no score threshold.",
                stacklevel=2,
            )
    return metrics


def pooled_ap(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
) -> dict[str, float]:
    """Return pooled AP, AP50 and AP75, and APr, APc and APf if the file has frequencies.

    All detections count. -1 where there is no ground truth. Detections of equal score are taken by
    image and category, as in the authors' code.
    """
    matches = match(ground_truth, detections, iou_type, iou_thresholds, None)
    order = np.lexsort((matches.category, matches.image, -matches.score))
    right, ignored = matches.right[0][:, order], matches.ignored[0][:, order]
    counted = ground_truth.category[matches.object_counts[0]]

    def precision(chosen: np.ndarray) -> np.ndarray:
        """Of the categories of a pool, float64 of shape (T, R)."""
        num_objects = np.count_nonzero(chosen[counted])
        if not num_objects:
            return np.full((len(iou_thresholds), 1), -1.0)
        inside = chosen[matches.category[order]]
        return interpolate_precision(right[:, inside], ignored[:, inside], num_objects)[0]

    all_categories = precision(np.ones(len(ground_truth.category_ids), dtype=bool))
    metrics = {"AP": float(all_categories.mean())}
    for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
        at = np.isclose(iou_thresholds, iou)
        if at.any():
            metrics[name] = float(all_categories[at].mean())
    if ground_truth.frequencies is not None:
        for group in FREQUENCY_GROUPS:
            metrics[f"AP{group}"] = float(precision(ground_truth.frequencies == group).mean())
    return metrics
