"""Error bars of AP, by bootstrap over images.

As many images as there are get drawn with replacement, many times, and AP is computed on each draw.
What a detection is matched with depends on its image alone, so that a draw is a weight of each
image: how often it was drawn. Two models are compared on the same draws, since both find some
images hard.

A draw has fewer different images, and its AP is higher for it. So the interval is the middle 95 %
of the draws, moved until their mean is the metric itself: where the metric would lie on other sets
of that size. A draw without ground truth of a category leaves it out of the mean, as AP does.

Glossary, besides that of :mod:`mmdet_eql.evaluation.matches`:
    B: draws.
    I: images. C: categories.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdet_eql.evaluation.columns import FREQUENCY_GROUPS, LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import IOU_THRESHOLDS, MAX_DETECTIONS, match
from mmdet_eql.evaluation.matches import RECALL_THRESHOLDS

#: Draws by default.
NUM_DRAWS = 1000
#: Numbers held at once, so that memory stays bounded.
_NUMBERS_AT_ONCE = 1 << 20


def resample_category_ap(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    number: int = NUM_DRAWS,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
    seed: int = 0,
) -> np.ndarray:
    """Return the AP of each category on draws of images.

    Args:
        ground_truth (LVISGroundTruth): Annotations; with masks for 'segm' and 'boundary'.
        detections (LVISDetections): Boxes for 'bbox', masks for 'segm' and 'boundary'.
        iou_type (str): 'bbox', 'segm' or 'boundary'.
        number (int): Number of draws B.
        iou_thresholds (np.ndarray): T numbers.
        max_detections (int): Detections per image that count.
        seed (int): Draws are the same for the same seed and number of images.

    Returns:
        np.ndarray: float64 of shape (B, C), NaN where a draw has no ground truth.
    """
    from tqdm import tqdm

    matches = match(ground_truth, detections, iou_type, iou_thresholds, max_detections)
    num_categories = len(ground_truth.category_ids)
    weight = draw_images(len(ground_truth.image_ids), number, seed)
    counted = matches.object_counts[0]
    object_image = matches.object_image[counted]
    object_category = matches.object_category[counted]
    by_category = np.argsort(object_category, kind="stable")
    bounds = np.arange(num_categories + 1)
    objects_of = np.searchsorted(object_category[by_category], bounds).tolist()
    found_of = np.searchsorted(matches.category, bounds).tolist()

    category_ap = np.full((number, num_categories), np.nan)
    present = np.flatnonzero(np.diff(objects_of)).tolist()
    for category in tqdm(present, "bootstrap", disable=None):
        objects = by_category[objects_of[category] : objects_of[category + 1]]
        here = slice(found_of[category], found_of[category + 1])
        size = max(1, _NUMBERS_AT_ONCE // max(1, here.stop - here.start))
        for start in range(0, number, size):
            draws = slice(start, start + size)
            category_ap[draws, category] = average_precision(
                matches.right[0][:, here],
                matches.ignored[0][:, here],
                weight[matches.image[here], draws],
                weight[object_image[objects], draws].sum(axis=0),
            )
    return category_ap


def draw_images(num_images: int, number: int, seed: int) -> np.ndarray:
    """Return how often each draw has each image: int32 of shape (I, B)."""
    rng = np.random.default_rng(seed)
    weight = np.empty((num_images, number), dtype=np.int32)
    for draw in range(number):
        drawn = rng.integers(num_images, size=num_images)
        weight[:, draw] = np.bincount(drawn, minlength=num_images)
    return weight


def frequency_means(
    category_ap: np.ndarray, frequencies: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return AP, and APr, APc and APf if frequencies are known, of each draw.

    Args:
        category_ap (np.ndarray): float64 of shape (B, C).
        frequencies (np.ndarray, optional): 'r', 'c' or 'f', shape (C,).

    Returns:
        dict[str, np.ndarray]: float64 of shape (B,), NaN without ground truth.
    """
    groups = {"AP": np.ones(category_ap.shape[1], dtype=bool)}
    if frequencies is not None:
        groups |= {f"AP{group}": frequencies == group for group in FREQUENCY_GROUPS}
    means = {}
    for name, chosen in groups.items():
        values, known = category_ap[:, chosen], ~np.isnan(category_ap[:, chosen])
        number = known.sum(axis=1)
        total = np.where(known, values, 0).sum(axis=1)
        means[name] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return means


def intervals(
    draws: Mapping[str, np.ndarray], metrics: Mapping[str, float], level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Return the ends of the interval of each metric; None without ground truth.

    Args:
        draws (Mapping[str, np.ndarray]): Values of a metric on draws by its name, float64 of shape
            (B,), NaN without ground truth.
        metrics (Mapping[str, float]): The metric itself by name, or the difference of two.
        level (float): Share of the draws that the interval holds.
    """
    tail = 100 * (1 - level) / 2
    ends = {}
    for name, values in draws.items():
        values = values[~np.isnan(values)]
        if len(values):
            values = values - values.mean() + metrics[name]
            ends[name] = tuple(np.percentile(values, [tail, 100 - tail]).tolist())
        else:
            ends[name] = None
    return ends


def interval_metrics(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    metrics: Mapping[str, float],
    *options: Any,
) -> dict[str, float]:
    """Return :func:`intervals` as ``AP_low``, ``AP_high``, ``APr_low``, ...; -1 if unknown.

    ``metrics`` are those of all images; ``options`` those of :func:`resample_category_ap`.
    """
    flat = {}
    category_ap = resample_category_ap(ground_truth, detections, iou_type, *options)
    draws = frequency_means(category_ap, ground_truth.frequencies)
    for name, ends in intervals(draws, metrics).items():
        flat[f"{name}_low"], flat[f"{name}_high"] = ends or (-1.0, -1.0)
    return flat


def average_precision(
    right: np.ndarray, ignored: np.ndarray, weight: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """AP of a category on B draws.

    Precision at a recall is the highest one there or beyond, which some right detection has. So
    each right detection, from the lowest score up, holds for the recall thresholds that it passes.

    Args:
        right (np.ndarray): bool of shape (T, N).
        ignored (np.ndarray): bool of shape (T, N).
        weight (np.ndarray): Of the images of detections, int32 of shape (N, B).
        num_objects (np.ndarray): int of shape (B,).
    """
    seen = np.cumsum(weight, axis=0, dtype=np.int32)
    total = np.zeros(len(num_objects))
    for is_right, is_ignored in zip(right, ignored, strict=True):
        at, apart = np.flatnonzero(is_right), np.flatnonzero(is_ignored)
        if not len(at):
            continue
        true = np.cumsum(weight[at], axis=0, dtype=np.int32)
        judged = seen[at]
        if len(apart):
            # How many ignored detections go before each right one.
            before = np.searchsorted(apart, at)
            skipped = np.zeros((len(apart) + 1, len(num_objects)), dtype=np.int32)
            np.cumsum(weight[apart], axis=0, out=skipped[1:])
            judged -= skipped[before]
        precision = true / (judged + np.spacing(1))
        np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])
        recall = true / np.maximum(num_objects, 1)
        # The next threshold, or one that rounding errors have just missed.
        passed = (recall * (len(RECALL_THRESHOLDS) - 1) + 1e-6).astype(np.int32)
        passed += recall >= RECALL_THRESHOLDS[passed]
        passed[1:] -= passed[:-1].copy()
        # A draw without any of them passes the threshold 0 at precision 0.
        total += np.einsum("ij,ij->j", passed, precision)
    total /= len(right) * len(RECALL_THRESHOLDS)
    return np.where(num_objects > 0, total, np.nan)
