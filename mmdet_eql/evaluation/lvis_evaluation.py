"""Average precision and recall on LVIS, at a cost that follows what exists.

The rules are those of the LVIS protocol and of lvis-api's ``LVISEval``: the best 300 detections of
an image count, over all categories; an image judges only the categories that are annotated in it or
verified absent from it; where a category is not exhaustively annotated, unmatched detections are
neither right nor wrong. The figures agree with ``LVISEval``, and so do the precision and recall
arrays. What differs is the work: everything is a column of numbers over the annotations and
detections that exist, and no step visits all images times all categories.

Shape glossary:
    I: images of the annotation file, sorted by id.
    C: categories, sorted by id.
    G: annotations (ground truth).
    D: detections.
    P: candidate pairs, a detection and an annotation of its image and category that overlap enough
        for the lowest IoU threshold.
    T: IoU thresholds, 10 from 0.5 to 0.95 unless told.
    R: recall thresholds, 101 from 0 to 1.
    A: area ranges, 4: all, small, medium and large.

A *group* is an image and a category that meet in an annotation or a detection. It is written as
one integer, ``image * C + category``, with positions rather than ids.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from mmengine.logging import print_log

from mmdet_eql.annotations.checks import is_federated
from mmdet_eql.annotations.segmentation import segmentation_problem
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.rle import count_pixels

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
#: Smallest and largest area in square pixels, both inclusive.
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
#: Detections per image that count, over all categories.
MAX_DETECTIONS = 300
#: Values of a category's ``frequency``: rare, common and frequent in the training set.
FREQUENCY_GROUPS = ("r", "c", "f")

# What a detection is at one IoU threshold and in one area range.
_UNMATCHED, _TRUE_POSITIVE, _IGNORED = 0, 1, 2

# Pairs whose IoU is computed at once; bounds memory when images are crowded.
_PAIRS_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class LVISGroundTruth:
    """What an LVIS annotation file says about its images, as columns.

    Args:
        image_ids (np.ndarray): int64 of shape (I,), sorted.
        image_sizes (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        category_ids (np.ndarray): int64 of shape (C,), sorted.
        category_names (tuple[str]): C names.
        frequencies (np.ndarray, optional): 'r', 'c' or 'f' for each category, shape (C,); None if
            the file does not say.
        image (np.ndarray): Position of each annotation's image, int64 of shape (G,).
        category (np.ndarray): Position of each annotation's category, int64 of shape (G,).
        area (np.ndarray): float64 of shape (G,), in square pixels.
        ignore (np.ndarray): Whether an annotation is neither to be found nor missed, bool of shape
            (G,).
        has_zero_id (np.ndarray): Whether an annotation's id is 0, bool of shape (G,).
        boxes (np.ndarray): x, y, width, height in pixels, float64 of shape (G, 4).
        masks (np.ndarray, optional): Compressed RLE ``counts`` as bytes, object of shape (G,).
        labelled (np.ndarray, optional): Sorted groups that are annotated or verified absent, int64;
            None if every category was looked for in every image, as in COCO.
        not_exhaustive (np.ndarray): Sorted groups of which instances may be missing, int64.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    category_ids: np.ndarray
    category_names: tuple[str, ...]
    frequencies: np.ndarray | None
    image: np.ndarray
    category: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    has_zero_id: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None
    labelled: np.ndarray | None
    not_exhaustive: np.ndarray

    @classmethod
    def from_lvis(
        cls, data: dict[str, Any], path: str, with_masks: bool = False
    ) -> "LVISGroundTruth":
        """Turn the content of an annotation file into columns.

        In a COCO file, crowd regions are ignored: neither to be found nor missed.

        Args:
            data (dict): What :func:`mmdet_eql.annotations.checks.load_lvis_json` returns.
            path (str): Name of the file, for error messages.
            with_masks (bool): Whether to encode the masks as well.

        Returns:
            LVISGroundTruth: Columns that share nothing with ``data``.

        Raises:
            UserError: If a ``frequency`` is missing for some categories only or unknown, or a mask
                cannot be encoded.
        """
        images = sorted(data["images"], key=lambda image: image["id"])
        categories = sorted(data["categories"], key=lambda category: category["id"])
        # LVIS leaves annotations without an area out, even from what counts as annotated.
        annotations = [ann for ann in data["annotations"] if 0 < ann["area"] < np.inf]
        image_at = {image["id"]: position for position, image in enumerate(images)}
        category_at = {category["id"]: position for position, category in enumerate(categories)}

        federated = is_federated(images)
        if federated and any(ann["id"] == 0 for ann in annotations):
            print_log(
                f"{path}: an annotation has the id 0. lvis-api takes a match with it for none, and "
                "so do the figures here; number annotations from 1.",
                logger="current",
                level=logging.WARNING,
            )

        sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)
        image = _int_column(image_at[ann["image_id"]] for ann in annotations)
        category = _int_column(category_at[ann["category_id"]] for ann in annotations)

        def groups(field: str) -> np.ndarray:
            return _int_column(
                position * len(categories) + category_at[category_id]
                for position, record in enumerate(images)
                for category_id in record.get(field, ())
            )

        annotated = image * len(categories) + category
        return cls(
            image_ids=_int_column(image["id"] for image in images),
            image_sizes=sizes,
            category_ids=_int_column(category["id"] for category in categories),
            category_names=tuple(category["name"] for category in categories),
            frequencies=_frequency_column(categories, path),
            image=image,
            category=category,
            area=np.array([ann["area"] for ann in annotations], dtype=np.float64),
            ignore=np.array(
                [
                    bool(ann.get("ignore") or (not federated and ann.get("iscrowd")))
                    for ann in annotations
                ],
                dtype=bool,
            ),
            has_zero_id=np.array([federated and ann["id"] == 0 for ann in annotations], dtype=bool),
            boxes=np.array([ann["bbox"] for ann in annotations], dtype=np.float64).reshape(-1, 4),
            masks=_mask_column(annotations, sizes[image], path) if with_masks else None,
            labelled=(
                np.unique(np.concatenate([annotated, groups("neg_category_ids")]))
                if federated
                else None
            ),
            not_exhaustive=np.unique(groups("not_exhaustive_category_ids")),
        )

    def select_categories(self, category_ids: Sequence[int]) -> "LVISGroundTruth":
        """Leave out all but some categories, as if the file did not know them.

        Args:
            category_ids (Sequence[int]): Ids of the categories to keep.

        Returns:
            LVISGroundTruth: The same images with the chosen categories.
        """
        chosen = np.isin(self.category_ids, category_ids)
        position = np.cumsum(chosen) - 1
        kept = chosen[self.category]

        def regroup(groups: np.ndarray) -> np.ndarray:
            image, category = np.divmod(groups, len(self.category_ids))
            inside = chosen[category]
            return image[inside] * chosen.sum() + position[category[inside]]

        return replace(
            self,
            category_ids=self.category_ids[chosen],
            category_names=tuple(np.array(self.category_names, dtype=object)[chosen]),
            frequencies=None if self.frequencies is None else self.frequencies[chosen],
            image=self.image[kept],
            category=position[self.category[kept]],
            area=self.area[kept],
            ignore=self.ignore[kept],
            has_zero_id=self.has_zero_id[kept],
            boxes=self.boxes[kept],
            masks=None if self.masks is None else self.masks[kept],
            labelled=None if self.labelled is None else regroup(self.labelled),
            not_exhaustive=regroup(self.not_exhaustive),
        )

    def merge_categories(self) -> "LVISGroundTruth":
        """Call every annotation an object, for recall that is blind to categories.

        Returns:
            LVISGroundTruth: The same annotations in one category. Every image judges it. Its
            precision means nothing, since most objects of an image are not annotated.
        """
        return replace(
            self,
            category_ids=np.zeros(1, dtype=np.int64),
            category_names=("object",),
            frequencies=None,
            category=np.zeros_like(self.category),
            labelled=None,
            not_exhaustive=np.zeros(0, dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class LVISDetections:
    """Detections as columns, in the order in which the model gave them.

    Of equal scores in an image the earlier detection goes first.

    Args:
        image (np.ndarray): Position of the image in ``LVISGroundTruth.image_ids``, int64 of shape
            (D,).
        category (np.ndarray): Position in ``LVISGroundTruth.category_ids``, int64 of shape (D,).
        score (np.ndarray): float64 of shape (D,), finite.
        boxes (np.ndarray, optional): x, y, width, height in pixels, float64 of shape (D, 4). They
            set the area of a detection wherever they are given, also that of a mask, as lvis-api
            has it; leave them out to measure masks by their own area.
        masks (np.ndarray, optional): Compressed RLE ``counts`` as bytes, object of shape (D,), in
            the size of their image.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    @classmethod
    def concatenate(cls, blocks: Sequence["LVISDetections"]) -> "LVISDetections":
        """Join columns of detections.

        Args:
            blocks (Sequence[LVISDetections]): At least one; all with boxes or none, likewise masks.

        Returns:
            LVISDetections: The detections of all blocks in order.
        """
        columns = {}
        for field in fields(cls):
            values = [getattr(block, field.name) for block in blocks]
            columns[field.name] = None if values[0] is None else np.concatenate(values)
        return cls(**columns)

    def take(self, index: np.ndarray) -> "LVISDetections":
        """Select and order detections.

        Args:
            index (np.ndarray): Positions of the detections to take.

        Returns:
            LVISDetections: These detections in this order.
        """
        return LVISDetections(
            image=self.image[index],
            category=self.category[index],
            score=self.score[index],
            boxes=None if self.boxes is None else self.boxes[index],
            masks=None if self.masks is None else self.masks[index],
        )


@dataclass(frozen=True, eq=False)
class LVISEvaluation:
    """Precision and recall of detections, and the figures drawn from them.

    Args:
        precision (np.ndarray): Highest precision at each recall or beyond, float64 of shape
            (T, R, C, A); -1 for a category without ground truth in the area range.
        recall (np.ndarray): Recall of all detections, float64 of shape (T, C, A); -1 as above.
        iou_thresholds (np.ndarray): float64 of shape (T,).
        max_detections (int): Detections per image that counted.
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

    def figures(self) -> dict[str, float]:
        """Summarize.

        Returns:
            dict[str, float]: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, and AR, ARs, ARm, ARl
            with the number of detections, such as ``AR@300``: fractions, unrounded, or -1 where
            there is no ground truth. AP50 and AP75 are left out if their IoU threshold was not
            evaluated, APr, APc and APf if the file does not tell frequencies.
        """
        precision, recall = self.precision, self.recall
        figures = {"AP": _mean(precision[..., 0])}
        for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
            at = np.isclose(self.iou_thresholds, iou)
            if at.any():
                figures[name] = _mean(precision[at][..., 0])
        sizes = list(enumerate(AREA_RANGES))[1:]
        for index, size in sizes:
            figures[f"AP{size[0]}"] = _mean(precision[..., index])
        if self.frequencies is not None:
            for group in FREQUENCY_GROUPS:
                figures[f"AP{group}"] = _mean(precision[:, :, self.frequencies == group, 0])
        figures[f"AR@{self.max_detections}"] = _mean(recall[..., 0])
        for index, size in sizes:
            figures[f"AR{size[0]}@{self.max_detections}"] = _mean(recall[..., index])
        return figures

    def recall_by_frequency(self) -> dict[str, float]:
        """Recall of the groups, which lvis-api does not have: the mean over their categories.

        Returns:
            dict[str, float]: ARr, ARc and ARf with the number of detections, such as ``ARr@300``;
            fractions, or -1 where there is no ground truth. Empty if the file does not tell
            frequencies.
        """
        if self.frequencies is None:
            return {}
        return {
            f"AR{group}@{self.max_detections}": _mean(self.recall[:, self.frequencies == group, 0])
            for group in FREQUENCY_GROUPS
        }

    def category_ap(self) -> np.ndarray:
        """Average precision of each category over IoU thresholds and recalls.

        Returns:
            np.ndarray: float64 of shape (C,); NaN for a category without ground truth.
        """
        precision = self.precision[..., 0]
        # A category has ground truth at all thresholds or at none.
        return np.where(precision[0, 0] > -1, precision.mean(axis=(0, 1)), np.nan)


def evaluate_detections(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    iou_type: str,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
) -> LVISEvaluation:
    """Compare detections with ground truth by the rules of LVIS.

    Args:
        ground_truth (LVISGroundTruth): What is known of the images; with masks for 'segm'.
        detections (LVISDetections): Boxes for 'bbox', masks for 'segm'.
        iou_type (str): 'bbox' or 'segm'.
        iou_thresholds (np.ndarray): float64 of shape (T,).
        max_detections (int): Detections per image that count.

    Returns:
        LVISEvaluation: Precision and recall, for each category and area range.

    Raises:
        UserError: If a mask does not fit its image.

    Example:
        >>> truth = read_ground_truth("lvis_v1_val.json")  # doctest: +SKIP
        >>> detections = read_results("model.bbox.json", truth, "bbox")  # doctest: +SKIP
        >>> figures = evaluate_detections(truth, detections, "bbox").figures()  # doctest: +SKIP
        >>> figures["AP"], figures["APr"], figures["AR@300"]  # doctest: +SKIP
    """
    if iou_type not in ("bbox", "segm"):
        raise UserError(f"iou_type is {iou_type!r}; it must be 'bbox' or 'segm'.")
    iou_thresholds = np.asarray(iou_thresholds, dtype=np.float64)
    detections = _detections_that_count(ground_truth, detections, max_detections)
    area = _detection_area(ground_truth, detections, iou_type)
    kept = (area > 0) & (area < np.inf)
    if not kept.all():
        detections, area = detections.take(np.flatnonzero(kept)), area[kept]

    truth = _TruthByGroup.sort(ground_truth)
    state = _match(truth, detections, iou_type, iou_thresholds)
    group = _group(ground_truth, detections)
    excused = _outside_ranges(area) | np.isin(group, ground_truth.not_exhaustive)
    state[(state == _UNMATCHED) & excused[:, None]] = _IGNORED

    precision, recall = _accumulate(truth, detections, state, len(ground_truth.category_ids))
    return LVISEvaluation(
        precision=precision,
        recall=recall,
        iou_thresholds=iou_thresholds,
        max_detections=max_detections,
        category_ids=ground_truth.category_ids,
        category_names=ground_truth.category_names,
        frequencies=ground_truth.frequencies,
    )


# --- which detections count -----------------------------------------------------------------------


def _detections_that_count(
    ground_truth: LVISGroundTruth, detections: LVISDetections, max_detections: int
) -> LVISDetections:
    """Apply the limit per image, then drop what the image does not judge; sort by group, score.

    The limit comes first: a detection of a category that nobody looked for still takes a place.
    """
    by_score = np.lexsort((-detections.score, detections.image))
    image = detections.image[by_score]
    first_of_image = np.searchsorted(image, np.arange(len(ground_truth.image_ids)))
    rank = np.arange(len(image)) - first_of_image[image]
    index = by_score[rank < max_detections]

    group = _group(ground_truth, detections)[index]
    if ground_truth.labelled is not None:
        judged = np.isin(group, ground_truth.labelled)
        index, group = index[judged], group[judged]
    # Stable, so that scores stay sorted within each group.
    return detections.take(index[np.argsort(group, kind="stable")])


def _detection_area(
    ground_truth: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> np.ndarray:
    if iou_type == "segm":
        area, num_pixels = count_pixels(detections.masks)
        sizes = ground_truth.image_sizes[detections.image]
        broken = np.flatnonzero(num_pixels != sizes.prod(axis=1))
        if len(broken):
            first = broken[0]
            raise UserError(
                f"image {ground_truth.image_ids[detections.image[first]]}: a detected mask of "
                f"category {ground_truth.category_names[detections.category[first]]!r} is no "
                f"compressed RLE of {sizes[first, 0]}x{sizes[first, 1]} pixels (height x width), "
                "the size of its image; mend the masks."
            )
    if detections.boxes is None:
        return area.astype(np.float64)
    return detections.boxes[:, 2] * detections.boxes[:, 3]


def _group(ground_truth: LVISGroundTruth, of: LVISGroundTruth | LVISDetections) -> np.ndarray:
    return of.image * len(ground_truth.category_ids) + of.category


def _outside_ranges(area: np.ndarray) -> np.ndarray:
    """Whether areas of shape (N,) lie outside each area range: bool of shape (A, N)."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return (area < low[:, None]) | (area > high[:, None])


# --- matching -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _TruthByGroup:
    """Annotations sorted by group, in the order of the file within each.

    ``ignored`` is of shape (A, G): set aside by the annotation itself or by its area.
    """

    ground_truth: LVISGroundTruth
    group: np.ndarray
    category: np.ndarray
    ignored: np.ndarray
    has_zero_id: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None

    @classmethod
    def sort(cls, ground_truth: LVISGroundTruth) -> "_TruthByGroup":
        group = _group(ground_truth, ground_truth)
        order = np.argsort(group, kind="stable")
        ignored = ground_truth.ignore | _outside_ranges(ground_truth.area)
        return cls(
            ground_truth=ground_truth,
            group=group[order],
            category=ground_truth.category[order],
            ignored=ignored[:, order],
            has_zero_id=ground_truth.has_zero_id[order],
            boxes=ground_truth.boxes[order],
            masks=None if ground_truth.masks is None else ground_truth.masks[order],
        )


def _match(
    truth: _TruthByGroup,
    detections: LVISDetections,
    iou_type: str,
    iou_thresholds: np.ndarray,
) -> np.ndarray:
    """Assign annotations to detections greedily, in all groups at once.

    In each group the detections take turns by score. One takes the open annotation with the
    highest IoU, of equal ones the last; one that is set aside only if no other is open. Detections
    of different groups never compete, so that all groups take their turn in one step.

    Args:
        truth (_TruthByGroup): Annotations.
        detections (LVISDetections): Sorted by group and descending score.
        iou_type (str): 'bbox' or 'segm'.
        iou_thresholds (np.ndarray): Shape (T,).

    Returns:
        np.ndarray: ``_UNMATCHED``, ``_TRUE_POSITIVE`` or ``_IGNORED``, int8 of shape (A, T, D).
    """
    # The bound below 1 lets a perfect box pass a threshold of 1 in spite of rounding.
    thresholds = np.minimum(iou_thresholds, 1 - 1e-10)
    detection, annotation, iou = _candidate_pairs(
        truth, detections, iou_type, thresholds.min(initial=1)
    )
    num_ranges, num_annotations = truth.ignored.shape
    shape = (num_ranges, len(thresholds))
    state = np.full((*shape, len(detections.score)), _UNMATCHED, dtype=np.int8)
    taken = np.zeros((*shape, num_annotations), dtype=bool)

    turn = _turns(_group(truth.ground_truth, detections), detection)
    # Within a detection the preferred annotation comes last.
    order = np.lexsort((annotation, iou, detection, turn))
    detection, annotation, iou = detection[order], annotation[order], iou[order]
    bounds = np.searchsorted(turn[order], np.arange(turn.max(initial=-1) + 2))
    for start, stop in pairwise(bounds):
        here = annotation[start:stop]
        first_of_detection = np.flatnonzero(np.diff(detection[start:stop], prepend=-1))
        acting = detection[start:stop][first_of_detection]

        is_open = (iou[start:stop] >= thresholds[:, None]) & ~taken[:, :, here]
        # Preference of each pair as a number: its position, raised above all that are set aside.
        num_pairs = stop - start
        preference = np.arange(num_pairs) + num_pairs * ~truth.ignored[:, here]
        preference = np.where(is_open, preference[:, None], -1)
        best = np.maximum.reduceat(preference, first_of_detection, axis=2)

        area_range, threshold, which = np.nonzero(best >= 0)
        chosen = here[best[area_range, threshold, which] % num_pairs]
        taken[area_range, threshold, chosen] = True
        outcome = np.where(
            truth.ignored[area_range, chosen],
            _IGNORED,
            # lvis-api marks a match by the annotation's id and reads 0 as none.
            np.where(truth.has_zero_id[chosen], _UNMATCHED, _TRUE_POSITIVE),
        )
        state[area_range, threshold, acting[which]] = outcome
    return state


def _turns(group: np.ndarray, detection: np.ndarray) -> np.ndarray:
    """When each pair's detection acts: its rank among those of its group that have candidates.

    Args:
        group (np.ndarray): Group of every detection, sorted, shape (D,).
        detection (np.ndarray): Detection of each pair, sorted, shape (P,).

    Returns:
        np.ndarray: int64 of shape (P,), from 0.
    """
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    acting_group = group[detection[starts]]
    first_of_group = np.searchsorted(acting_group, acting_group)
    rank = np.arange(len(starts)) - first_of_group
    return np.repeat(rank, np.diff(starts, append=len(detection)))


def _candidate_pairs(
    truth: _TruthByGroup, detections: LVISDetections, iou_type: str, lowest_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs that can match, and their IoU.

    Args:
        truth (_TruthByGroup): Annotations.
        detections (LVISDetections): Sorted by group.
        iou_type (str): 'bbox' or 'segm'.
        lowest_iou (float): IoU from which a pair can match.

    Returns:
        tuple: Detection and annotation, int64 of shape (P,), and IoU, float64 of shape (P,),
        sorted by detection.
    """
    group = _group(truth.ground_truth, detections)
    # The annotations of each detection's group: from start up to stop.
    start = np.searchsorted(truth.group, group, side="left")
    stop = np.searchsorted(truth.group, group, side="right")
    blocks = _box_ious if iou_type == "bbox" else _mask_ious
    found = [(np.zeros(0, dtype=np.int64),) * 2 + (np.zeros(0),)]
    for detection, annotation, iou in blocks(truth, detections, group, start, stop):
        enough = iou >= lowest_iou
        found.append((detection[enough], annotation[enough], iou[enough]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _box_ious(
    truth: _TruthByGroup,
    detections: LVISDetections,
    group: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield detection, annotation and IoU of the pairs, about ``_PAIRS_AT_ONCE`` at a time."""
    count = stop - start
    num_blocks = int(count.sum()) // _PAIRS_AT_ONCE + 1
    bounds = np.searchsorted(np.cumsum(count), np.arange(1, num_blocks) * _PAIRS_AT_ONCE)
    for low, high in zip([0, *bounds], [*bounds, len(count)], strict=True):
        detection = np.repeat(np.arange(low, high), count[low:high])
        within = np.arange(len(detection)) - np.repeat(
            np.cumsum(count[low:high]) - count[low:high], count[low:high]
        )
        annotation = start[detection] + within
        yield (
            detection,
            annotation,
            _paired_box_iou(detections.boxes[detection], truth.boxes[annotation]),
        )


def _paired_box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes of shape (N, 4) with as many others, both x, y, width, height: shape (N,).

    The operations and their order are those of pycocotools, so that the last bit agrees.
    """
    x, y, width, height = boxes.T
    other_x, other_y, other_width, other_height = others.T
    overlap_x = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    overlap_y = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    intersection = overlap_x * overlap_y
    union = width * height + other_width * other_height - intersection
    iou = np.zeros_like(intersection)
    np.divide(intersection, union, out=iou, where=(overlap_x > 0) & (overlap_y > 0))
    return iou


def _mask_ious(
    truth: _TruthByGroup,
    detections: LVISDetections,
    group: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield detection, annotation and IoU of the pairs, group by group."""
    sizes = truth.ground_truth.image_sizes[detections.image]
    firsts = np.flatnonzero(np.diff(group, prepend=-1))
    lasts = np.append(firsts[1:], len(group))
    has_truth = stop[firsts] > start[firsts]
    for first, last in zip(firsts[has_truth], lasts[has_truth], strict=True):
        annotations = slice(start[first], stop[first])
        count = annotations.stop - annotations.start
        height_width = sizes[first : first + 1]
        iou = mask_utils.iou(
            _rles(detections.masks[first:last], np.repeat(height_width, last - first, axis=0)),
            _rles(truth.masks[annotations], np.repeat(height_width, count, axis=0)),
            [0] * count,
        )
        detection, annotation = np.indices(iou.shape).reshape(2, -1)
        yield detection + first, annotation + annotations.start, iou.ravel()


# --- accumulation ---------------------------------------------------------------------------------


def _accumulate(
    truth: _TruthByGroup, detections: LVISDetections, state: np.ndarray, num_categories: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw precision and recall from the matches.

    Args:
        truth (_TruthByGroup): Annotations.
        detections (LVISDetections): Detections, sorted by group and descending score.
        state (np.ndarray): What each detection is, shape (A, T, D).
        num_categories (int): C.

    Returns:
        tuple: Precision of shape (T, R, C, A) and recall of shape (T, C, A), float64.
    """
    num_ranges, num_thresholds, _ = state.shape
    num_recalls = len(RECALL_THRESHOLDS)
    precision = np.full((num_thresholds, num_recalls, num_categories, num_ranges), -1.0)
    recall = np.full((num_thresholds, num_categories, num_ranges), -1.0)

    # Stable: of equal scores the image with the lower id goes first.
    order = np.lexsort((-detections.score, detections.category))
    bounds = np.searchsorted(detections.category[order], np.arange(num_categories + 1))
    for area_range in range(num_ranges):
        wanted = ~truth.ignored[area_range]
        num_wanted = np.bincount(truth.category[wanted], minlength=num_categories)
        for category in np.flatnonzero(num_wanted):
            of_category = order[bounds[category] : bounds[category + 1]]
            precision[:, :, category, area_range], recall[:, category, area_range] = (
                _precision_recall(state[area_range][:, of_category], num_wanted[category])
            )
    return precision, recall


def _precision_recall(state: np.ndarray, num_wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the recall thresholds, and recall, of one category in one area range.

    Args:
        state (np.ndarray): What each detection is, by descending score, shape (T, N).
        num_wanted (int): Annotations to be found, at least 1.

    Returns:
        tuple: Precision of shape (T, R) and recall of shape (T,).
    """
    num_thresholds, num_detections = state.shape
    true_positives = np.cumsum(state == _TRUE_POSITIVE, axis=1)
    false_positives = np.cumsum(state == _UNMATCHED, axis=1)
    recall = true_positives[:, -1] / num_wanted if num_detections else np.zeros(num_thresholds)

    # Precision is 0 for recalls that are never reached: one more column holds it.
    precision = np.zeros((num_thresholds, num_detections + 1))
    precision[:, :-1] = true_positives / (false_positives + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]

    # True positives that each recall threshold asks for, compared as floats like the recalls.
    needed = np.searchsorted(np.arange(num_wanted + 1) / num_wanted, RECALL_THRESHOLDS)
    # One search for all rows: each row's counts are lifted above those of the row before.
    lift = np.arange(num_thresholds)[:, None] * (num_wanted + 1)
    reached = np.searchsorted((true_positives + lift).ravel(), (needed + lift).ravel())
    reached = reached.reshape(num_thresholds, -1) - np.arange(num_thresholds)[:, None] * (
        num_detections
    )
    return np.take_along_axis(precision, reached, axis=1), recall


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


# --- columns --------------------------------------------------------------------------------------


def _int_column(values: Iterable[int]) -> np.ndarray:
    return np.fromiter(values, dtype=np.int64)


def _frequency_column(categories: list[dict], path: str) -> np.ndarray | None:
    if not any("frequency" in category for category in categories):
        return None
    for category in categories:
        if category.get("frequency") not in FREQUENCY_GROUPS:
            raise UserError(
                f"{path}: category {category['id']} ({category['name']!r}) has frequency "
                f"{category.get('frequency')!r}; it must be 'r', 'c' or 'f', for all categories or "
                "for none."
            )
    return np.array([category["frequency"] for category in categories])


def _mask_column(annotations: list[dict], sizes: np.ndarray, path: str) -> np.ndarray:
    masks = np.empty(len(annotations), dtype=object)
    for index, (annotation, (height, width)) in enumerate(
        zip(annotations, sizes.tolist(), strict=True)
    ):
        masks[index] = _encode(annotation, height, width, path)
    return masks


def _encode(annotation: dict, height: int, width: int, path: str) -> bytes:
    """Encode polygons, or RLE with the numbers written out, as compressed RLE."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        problem = segmentation_problem(segmentation, height, width)
        if problem is not None:
            raise UserError(
                f"{path}: annotation {annotation['id']} has no usable 'segmentation'; {problem}."
            )
    try:
        if isinstance(segmentation, list):
            return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))["counts"]
        if isinstance(segmentation["counts"], list):
            segmentation = mask_utils.frPyObjects(segmentation, height, width)
        counts, size = segmentation["counts"], list(segmentation["size"])
        counts = counts.encode("ascii") if isinstance(counts, str) else counts
        _, (num_pixels,) = count_pixels([counts])
    except Exception:  # pycocotools has no errors of its own: it raises what it stumbles over
        raise UserError(
            f"{path}: annotation {annotation['id']} has no usable 'segmentation'; it must be a "
            "list of polygons [x1, y1, x2, y2, ...] with at least three points each, or RLE."
        ) from None
    if size != [height, width] or num_pixels != height * width:
        raise UserError(
            f"{path}: annotation {annotation['id']} has RLE of {num_pixels:,} pixels and size "
            f"{size}, but its image is of size {[height, width]} (height, width); correct the "
            "annotation or the image's size."
        )
    return counts


def _rles(masks: np.ndarray, sizes: np.ndarray) -> list[dict]:
    """Masks of shape (N,) in images of sizes (N, 2), as pycocotools takes them."""
    return [
        {"size": size, "counts": counts} for size, counts in zip(sizes.tolist(), masks, strict=True)
    ]
