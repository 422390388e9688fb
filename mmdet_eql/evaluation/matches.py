"""Which detections are right: the decision on each of them, by the rules of lvis-api.

hotcoco (:mod:`mmdet_eql.evaluation.matching`) gives the precision and recall of each category. What
it does not have needs the decisions themselves: IoU of boundaries, curves of pooled categories,
resampled images.

Glossary, besides those of :mod:`mmdet_eql.evaluation.columns` and ``lvis_evaluation``:
    D: detections, by category and within a category from the highest score to the lowest, equal
        scores by image.
    G: annotations, in the order of the ground truth.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, common_rows
from mmdet_eql.evaluation.matching import AREA_RANGES

RECALL_THRESHOLDS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and what became of them.

    Args:
        index (np.ndarray): Position among the detections that were given, int64 of shape (D,).
        image (np.ndarray): int64 of shape (D,).
        category (np.ndarray): int64 of shape (D,), sorted.
        score (np.ndarray): float64 of shape (D,).
        right (np.ndarray): Matched with an annotation that counts, bool of shape (A, T, D).
        ignored (np.ndarray): Neither right nor wrong, bool of shape (A, T, D).
        pairs (np.ndarray): Area range, IoU threshold, detection and annotation of each match,
            int64 of shape (4, P).
        object_counts (np.ndarray): Whether an annotation is to be found, bool of shape (A, G).
    """

    index: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    pairs: np.ndarray
    object_counts: np.ndarray


def match_detections(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    area: np.ndarray,
    iou: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    iou_thresholds: np.ndarray,
    area_ranges: Sequence[tuple[float, float]] = (AREA_RANGES["all"],),
) -> Matches:
    """Match detections with annotations.

    Args:
        ground_truth (LVISGroundTruth): Annotations.
        detections (LVISDetections): Detections that count, in images that judge their category.
        area (np.ndarray): Area of each detection in square pixels, float64.
        iou (Callable): Of an image, indices of N detections and of M annotations, gives the IoU,
            float64 of shape (N, M).
        iou_thresholds (np.ndarray): float64 of shape (T,).
        area_ranges (Sequence[tuple[float, float]]): A pairs of inclusive limits.
    """
    from tqdm import tqdm

    thresholds = np.minimum(iou_thresholds, 1 - 1e-10)
    num_images = len(ground_truth.image_ids)
    order = np.lexsort((-detections.score, detections.image, detections.category))
    image, category = detections.image[order], detections.category[order]
    group = category * num_images + image
    object_group = ground_truth.category * num_images + ground_truth.image

    low, high = np.array(area_ranges).T[:, :, None]
    counts = ~(ground_truth.ignore | (ground_truth.area < low) | (ground_truth.area > high))
    shared = list(common_rows(group, object_group))
    found = []
    for one, rows, objects in tqdm(shared, "matching", disable=None):
        overlap = iou(one % num_images, order[rows], objects)
        wanted = counts[:, objects].tolist()
        found += _match_group(overlap, thresholds.tolist(), wanted, int(rows[0]), objects.tolist())
    pairs = np.array(found, dtype=np.int64).reshape(-1, 4).T

    ranked = np.lexsort((-detections.score[order], category))
    rank = np.empty_like(ranked)
    rank[ranked] = np.arange(len(ranked))
    pairs[2] = rank[pairs[2]]
    index, image, category = order[ranked], image[ranked], category[ranked]
    outside = (area[index] < low) | (area[index] > high)
    loose = image * len(ground_truth.category_ids) + category
    loose = np.isin(loose, ground_truth.not_exhaustive)
    right = np.zeros((len(area_ranges), len(thresholds), len(order)), dtype=bool)
    ignored = right | (outside | loose)[:, None, :]
    is_right = counts[pairs[0], pairs[3]]
    right[tuple(pairs[:3])], ignored[tuple(pairs[:3])] = is_right, ~is_right
    return Matches(index, image, category, detections.score[index], right, ignored, pairs, counts)


def _match_group(
    iou: np.ndarray,
    thresholds: list[float],
    counts: list[list[bool]],
    start: int,
    objects: list[int],
) -> Iterator[tuple[int, int, int, int]]:
    """Match N detections, best first, with M annotations, ``objects``.

    Yields area range, threshold, detection (from ``start``) and annotation.
    """
    lowest = min(thresholds)
    # The annotations that are taken, as bits.
    taken = [[0] * len(thresholds) for _ in counts]
    for row in np.flatnonzero(iou.max(axis=1) >= lowest).tolist():
        # From the highest IoU on; of equal ones the last annotation is taken.
        pairs = [(value, at) for at, value in enumerate(iou[row].tolist()) if value >= lowest]
        pairs.sort(reverse=True)
        for area, wanted in enumerate(counts):
            # What is to be found goes before what is to be ignored.
            ordered = sorted(pairs, key=lambda pair: not wanted[pair[1]])
            for index, threshold in enumerate(thresholds):
                for value, at in ordered:
                    if value >= threshold and not taken[area][index] >> at & 1:
                        taken[area][index] |= 1 << at
                        yield area, index, start + row, objects[at]
                        break


def plain_iou(
    ground_truth: LVISGroundTruth, detections: LVISDetections, with_masks: bool
) -> Callable:
    """Return the IoU of boxes, or of masks, for :func:`match_detections`."""

    def iou(image: int, found: np.ndarray, objects: np.ndarray) -> np.ndarray:
        if with_masks:
            size = ground_truth.image_sizes[image].tolist()
            masks = detections.masks[found], ground_truth.masks[objects]
            pair = [[{"size": size, "counts": counts} for counts in of] for of in masks]
        else:
            pair = detections.boxes[found], ground_truth.boxes[objects]
        return mask_utils.iou(*pair, np.zeros(len(objects), dtype=np.uint8))

    return iou


def interpolate_precision(
    right: np.ndarray, ignored: np.ndarray, num_objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision at each recall threshold, and the recall of all detections.

    Args:
        right (np.ndarray): bool of shape (T, N), from the highest score to the lowest.
        ignored (np.ndarray): bool of shape (T, N).
        num_objects (int): Number of annotations to be found, at least 1.

    Returns:
        tuple: float64 of shape (T, R) and (T,).
    """
    curves, recalls = [], []
    # One threshold at a time: a pool of categories has a million detections.
    for is_right, is_ignored in zip(right, ignored, strict=True):
        true = np.cumsum(is_right)
        recall = true / num_objects
        precision = true / (np.cumsum(~is_ignored) + np.spacing(1))
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        curves.append(precision[np.searchsorted(recall, RECALL_THRESHOLDS, side="left")])
        recalls.append(recall[-1] if len(recall) else 0)
    return np.array(curves), np.array(recalls, dtype=np.float64)


def accumulate(matches: Matches, ground_truth: LVISGroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Return precision of shape (T, R, C, A) and recall of shape (T, C, A) of each category.

    -1 for a category without ground truth in the area range.
    """
    num_areas, num_thresholds, _ = matches.right.shape
    num_categories = len(ground_truth.category_ids)
    shape = (num_thresholds, len(RECALL_THRESHOLDS), num_categories, num_areas)
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    bounds = np.searchsorted(matches.category, np.arange(num_categories + 1)).tolist()
    for area in range(num_areas):
        counted = ground_truth.category[matches.object_counts[area]]
        num_objects = np.bincount(counted, minlength=num_categories)
        for category in np.flatnonzero(num_objects).tolist():
            here = slice(*bounds[category : category + 2])
            right, ignored = matches.right[area, :, here], matches.ignored[area, :, here]
            curves, of_all = interpolate_precision(right, ignored, num_objects[category])
            precision[:, :, category, area], recall[:, category, area] = curves, of_all
    return precision, recall
