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

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdet_eql.evaluation.columns import FREQUENCY_GROUPS, LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import IOU_THRESHOLDS, MAX_DETECTIONS, match
from mmdet_eql.evaluation.matches import RECALL_THRESHOLDS, Matches

#: Draws by default.
NUM_DRAWS = 1000
#: Numbers held at once, so that memory stays bounded.
_NUMBERS_AT_ONCE = 1 << 20


def resample_metrics(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    number: int = NUM_DRAWS,
    fixed: int | None = None,
    pooled: int | None = None,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return AP metrics on draws of images.

    Args:
        ground_truth, detections, iou_type, iou_thresholds, max_detections: Those of
            :func:`~mmdet_eql.evaluation.lvis_evaluation.evaluate_detections`, for AP.
        number (int): Number of draws B.
        fixed (int, optional): Detections of each category that count, for Fixed AP.
        pooled (int, optional): Likewise for pooled AP.
        seed (int): Draws are the same for the same seed and number of images.

    Returns:
        dict[str, np.ndarray]: By ``AP``, and ``APr``, ``APc``, ``APf`` if frequencies are known,
        ``fixed_AP`` and so on, ``pooled_AP`` and so on: float64 of shape (B,), NaN without ground
        truth.
    """
    weight = draw_images(len(ground_truth.image_ids), number, seed)
    evaluated = ground_truth, detections, iou_type, iou_thresholds
    matches = match(*evaluated, max_detections)
    draws = _Draws(ground_truth, detections, matches, weight, None)
    metrics = frequency_means(draws.category_ap(), ground_truth.frequencies)
    for prefix, limit in (("fixed_", fixed), ("pooled_", pooled)):
        if limit:
            draws = _Draws(ground_truth, detections, match(*evaluated, None), weight, limit)
            if prefix == "fixed_":
                of_kind = frequency_means(draws.category_ap(), ground_truth.frequencies)
            else:
                of_kind = draws.pooled_ap()
            metrics |= {prefix + name: values for name, values in of_kind.items()}
    return metrics


class _Draws:
    """The matches of a set on draws of its images.

    Args:
        weight (np.ndarray): How often each draw has each image, int32 of shape (I, B).
        limit (int, optional): Detections of each category that count, judged or not.
    """

    def __init__(
        self,
        ground_truth: LVISGroundTruth,
        detections: LVISDetections,
        matches: Matches,
        weight: np.ndarray,
        limit: int | None,
    ) -> None:
        self._ground_truth = ground_truth
        self._num_categories = len(ground_truth.category_ids)
        self._matches = matches
        self._weight = weight
        bounds = np.arange(self._num_categories + 1)
        self._found_of = np.searchsorted(matches.category, bounds)
        counted = np.flatnonzero(matches.object_counts[0])
        self._objects = counted[np.argsort(ground_truth.category[counted], kind="stable")]
        self._objects_of = np.searchsorted(ground_truth.category[self._objects], bounds)
        self._limit, self._crowded = limit, np.zeros(self._num_categories, dtype=bool)
        if limit is not None:
            # All detections, by category and falling score; the first one of equal scores first.
            order = np.lexsort((-detections.score, detections.category))
            self._image = detections.image[order]
            self._all_of = np.searchsorted(detections.category[order], bounds)
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            self._rank = rank[matches.index]
            self._crowded = np.diff(self._all_of) * int(weight.max(initial=0)) > limit

    def category_ap(self) -> np.ndarray:
        """Return the AP of each category: float64 of shape (B, C), NaN without ground truth."""
        from tqdm import tqdm

        matches, number = self._matches, self._weight.shape[1]
        ap = np.full((number, self._num_categories), np.nan)
        present = np.flatnonzero(np.diff(self._objects_of)).tolist()
        for category in tqdm(present, "bootstrap", disable=None):
            objects = self._objects[slice(*self._objects_of[category : category + 2])]
            here = slice(*self._found_of[category : category + 2].tolist())
            size = here.stop - here.start
            if self._crowded[category]:
                size = self._all_of[category + 1] - self._all_of[category]
            ranks = right_ranks(matches.right[0][:, here], matches.ignored[0][:, here])
            for draws in _blocks(number, size):
                ap[draws, category] = average_precision(
                    ranks,
                    self._weights(category, here, draws),
                    self._weight[self._ground_truth.image[objects], draws].sum(axis=0),
                )
        return ap

    def pooled_ap(self) -> dict[str, np.ndarray]:
        """Return pooled AP of all categories and, if they are known, of the frequency groups."""
        from tqdm import tqdm

        matches, truth, number = self._matches, self._ground_truth, self._weight.shape[1]
        order = np.lexsort((matches.category, matches.image, -matches.score))
        pools, values = {}, {}
        for name, chosen in frequency_groups(self._num_categories, truth.frequencies).items():
            rows = order[chosen[matches.category[order]]]
            objects = self._objects[chosen[truth.category[self._objects]]]
            ranks = right_ranks(matches.right[0][:, rows], matches.ignored[0][:, rows])
            pools[name] = rows, ranks, truth.image[objects]
            values[name] = np.full(number, np.nan)
        for draws in tqdm(_blocks(number, len(order)), "bootstrap", disable=None):
            weight = self._weight[matches.image, draws]
            for category in np.flatnonzero(self._crowded).tolist():
                here = slice(*self._found_of[category : category + 2].tolist())
                weight[here] = self._weights(category, here, draws)
            for name, (rows, ranks, image) in pools.items():
                num_objects = self._weight[image, draws].sum(axis=0)
                values[name][draws] = average_precision(ranks, weight[rows], num_objects)
        return values

    def _weights(self, category: int, here: slice, draws: slice) -> np.ndarray:
        """How often detections of a category, ``here``, count in draws: int32 of shape (N, B)."""
        if not self._crowded[category]:
            return self._weight[self._matches.image[here], draws]
        first, last = self._all_of[category : category + 2]
        weight = self._weight[self._image[first:last], draws]
        seen = np.minimum(np.cumsum(weight, axis=0), self._limit)
        return np.diff(seen, axis=0, prepend=0)[self._rank[here] - first].astype(np.int32)


def _blocks(number: int, size: int) -> list[slice]:
    """Split draws into blocks for ``size`` detections."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, size))
    return [slice(start, min(start + step, number)) for start in range(0, number, step)]


def draw_images(num_images: int, number: int, seed: int) -> np.ndarray:
    """Return how often each draw has each image: int32 of shape (I, B)."""
    rng = np.random.default_rng(seed)
    weight = np.empty((num_images, number), dtype=np.int32)
    for draw in range(number):
        drawn = rng.integers(num_images, size=num_images)
        weight[:, draw] = np.bincount(drawn, minlength=num_images)
    return weight


def frequency_groups(num_categories: int, frequencies: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return which categories ``AP``, ``APr``, ``APc`` and ``APf`` are of: bool of shape (C,)."""
    groups = {"AP": np.ones(num_categories, dtype=bool)}
    if frequencies is not None:
        groups |= {f"AP{group}": frequencies == group for group in FREQUENCY_GROUPS}
    return groups


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
    groups = frequency_groups(category_ap.shape[1], frequencies)
    with warnings.catch_warnings():
        # A draw may be without ground truth.
        warnings.simplefilter("ignore", RuntimeWarning)
        return {name: np.nanmean(category_ap[:, of], axis=1) for name, of in groups.items()}


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

    ``metrics`` are those of all images; ``options`` those of :func:`resample_metrics`.
    """
    flat = {}
    draws = resample_metrics(ground_truth, detections, iou_type, *options)
    for name, ends in intervals(draws, metrics).items():
        flat[f"{name}_low"], flat[f"{name}_high"] = ends or (-1.0, -1.0)
    return flat


def right_ranks(right: np.ndarray, ignored: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Return, for each IoU threshold, where right and ignored detections are.

    Args:
        right (np.ndarray): bool of shape (T, N), from the highest score to the lowest.
        ignored (np.ndarray): bool of shape (T, N).

    Returns:
        list[tuple]: T positions of the right ones and of the ignored ones, and how many ignored
        ones go before each right one.
    """
    places = [tuple(map(np.flatnonzero, of)) for of in zip(right, ignored, strict=True)]
    return [(at, apart, np.searchsorted(apart, at)) for at, apart in places]


def average_precision(
    ranks: list[tuple[np.ndarray, ...]], weight: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """AP of a category, or of a pool of them, on B draws.

    Precision at a recall is the highest one there or beyond, which some right detection has. So
    each right detection, from the lowest score up, holds for the recall thresholds that it passes.

    Args:
        ranks (list[tuple]): As :func:`right_ranks` returns them.
        weight (np.ndarray): Of the images of detections, int32 of shape (N, B).
        num_objects (np.ndarray): int of shape (B,).
    """
    seen = np.cumsum(weight, axis=0, dtype=np.int32)
    total = np.zeros(len(num_objects))
    for at, apart, before in ranks:
        if not len(at):
            continue
        true = np.cumsum(weight[at], axis=0, dtype=np.int32)
        judged = seen[at]
        if len(apart):
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
    total /= len(ranks) * len(RECALL_THRESHOLDS)
    return np.where(num_objects > 0, total, np.nan)
