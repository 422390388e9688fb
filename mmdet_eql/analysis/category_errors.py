"""Hits, misses, false alarms and confusions of one category.

Detections are matched as in the LVIS protocol, at one IoU threshold: the highest score first, each
to the free annotation of its image and category that it overlaps most. An image judges a category
if it is annotated there or verified absent (in a COCO file, always); elsewhere a detection is
neither right nor wrong, nor is one that matches nothing where annotation is not exhaustive. Boxes
are x, y, width, height in pixels, as in result files.
"""

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.utils.errors import UserError

#: A false alarm that overlaps an annotation of its category at least so much is badly placed.
_NEAR = 0.1


@dataclass(frozen=True)
class Detection:
    """A detection beside an annotation: name of its category, score, and box of shape (4,)."""

    category: str
    score: float
    box: np.ndarray


@dataclass(frozen=True)
class TruthCase:
    """An annotation of the category (box of shape (4,)), and what was found there.

    Args:
        image (int): Position of its image in ``LVISGroundTruth.image_ids``.
        found (Detection, optional): The detection that matches it; None if it was missed.
        confused (Detection, optional): Of a miss, the best detection of another category there.
        below (Detection, optional): Of a miss, the best one of the category with too low a score.
    """

    image: int
    box: np.ndarray
    found: Detection | None
    confused: Detection | None = None
    below: Detection | None = None


@dataclass(frozen=True)
class FalseAlarm:
    """A detection of the category that matches no annotation of it.

    Args:
        image (int): Position of its image.
        kind (str): ``"another category"`` if an annotation of another category is there;
            ``"duplicate"`` if one of the category is there, which a better detection has taken;
            ``"badly placed"`` if one of the category is nearby; else ``"nothing annotated"``.
        truth_category (str, optional): The other category.
        truth_box (np.ndarray, optional): The annotation that ``kind`` speaks of, shape (4,).
    """

    image: int
    detection: Detection
    kind: str
    truth_category: str | None = None
    truth_box: np.ndarray | None = None


@dataclass(frozen=True)
class CategoryErrors:
    """Annotations and detections of a category.

    Args:
        category (str): Its name.
        frequency (str): ``"r"``, ``"c"`` or ``"f"``, or ``""`` if the annotations do not say.
        truths (list[TruthCase]): Its annotations.
        false_alarms (list[FalseAlarm]): Wrong detections, by falling score.
        num_absent (int): Number of images that are verified not to contain it.
        num_excused (int): Detections that match nothing where it is not exhaustively annotated.
        num_unjudged (int): Detections in images that do not judge it.
        iou_thr (float): IoU from which boxes match.
        score_thr (float): Lowest score of a detection that counts.
    """

    category: str
    frequency: str
    truths: list[TruthCase]
    false_alarms: list[FalseAlarm]
    num_absent: int
    num_excused: int
    num_unjudged: int
    iou_thr: float
    score_thr: float

    @property
    def hits(self) -> list[TruthCase]:
        """Annotations that were found, by falling score of the detection."""
        hits = [case for case in self.truths if case.found is not None]
        return sorted(hits, key=lambda case: -case.found.score)

    @property
    def misses(self) -> list[TruthCase]:
        """Annotations that were not found, the largest first."""
        misses = [case for case in self.truths if case.found is None]
        return sorted(misses, key=lambda case: -case.box[2] * case.box[3])

    def mistaken_for(self) -> dict[str, int]:
        """Other categories that were seen where this one was missed, and how often."""
        return count_names(case.confused.category for case in self.misses if case.confused)

    def mistaken_from(self) -> dict[str, int]:
        """Other categories that this one was seen in, and how often."""
        others = (alarm.truth_category for alarm in self.false_alarms)
        return count_names(filter(None, others))


def find_category(ground_truth: LVISGroundTruth, name: str) -> int:
    """Return the position of a category; raise a UserError if there is none of that name."""
    if name in ground_truth.category_names:
        return ground_truth.category_names.index(name)
    near = difflib.get_close_matches(name, ground_truth.category_names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; correct the name."
    raise UserError(f"--category: the annotations have no category {name!r}{hint}")


def find_errors(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    category: int,
    iou_thr: float = 0.5,
    score_thr: float = 0.05,
) -> CategoryErrors:
    """Sort the annotations and detections of a category into hits and kinds of errors.

    Args:
        ground_truth (LVISGroundTruth): Annotations.
        detections (LVISDetections): Boxes of all categories.
        category (int): Position of the category.
        iou_thr (float): IoU from which boxes match.
        score_thr (float): Lowest score of a detection that counts.
    """
    judged = _images_of(ground_truth, ground_truth.judged, category)
    not_exhaustive = _images_of(ground_truth, ground_truth.not_exhaustive, category)
    own = ground_truth.category == category
    counts = (detections.category == category) & (detections.score >= score_thr)
    is_judged = np.isin(detections.image, judged)

    truths, false_alarms, num_excused = [], [], 0
    images = np.union1d(ground_truth.image[own], detections.image[counts & is_judged])
    truth_rows = _rows_of_images(ground_truth.image, images)
    detection_rows = _rows_of_images(detections.image, images)
    for image, truth, found in zip(images.tolist(), truth_rows, detection_rows, strict=True):
        # By falling score; of equal scores the first goes first.
        found = found[np.argsort(-detections.score[found], kind="stable")]
        cases, alarms = _sort_image(
            ground_truth, detections, category, iou_thr, score_thr, image, truth, found
        )
        truths += cases
        if image in not_exhaustive:
            num_excused += len(alarms)
        else:
            false_alarms += alarms
    frequencies = ground_truth.frequencies
    return CategoryErrors(
        category=ground_truth.category_names[category],
        frequency="" if frequencies is None else str(frequencies[category]),
        truths=truths,
        false_alarms=sorted(false_alarms, key=lambda alarm: -alarm.detection.score),
        num_absent=len(np.setdiff1d(judged, ground_truth.image[own])),
        num_excused=num_excused,
        num_unjudged=int((counts & ~is_judged).sum()),
        iou_thr=iou_thr,
        score_thr=score_thr,
    )


def _sort_image(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    category: int,
    iou_thr: float,
    score_thr: float,
    image: int,
    truth: np.ndarray,
    found: np.ndarray,
) -> tuple[list[TruthCase], list[FalseAlarm]]:
    """Sort one image; ``truth`` and ``found`` are its rows, the latter by falling score."""
    names = ground_truth.category_names
    boxes, truth_boxes = detections.boxes[found], ground_truth.boxes[truth]
    truth_category = ground_truth.category[truth]
    own_truth, ignore = truth_category == category, ground_truth.ignore[truth]
    own_found = detections.category[found] == category
    counts = detections.score[found] >= score_thr
    iou = np.zeros((len(found), len(truth)))
    if iou.size:
        iou = mask_utils.iou(boxes, truth_boxes, np.zeros(len(truth), np.uint8))

    def detection(rows: np.ndarray) -> Detection | None:
        """The first of some detections."""
        if not len(rows):
            return None
        row = found[rows[0]]
        score = float(detections.score[row])
        return Detection(names[detections.category[row]], score, detections.boxes[row])

    match_of_truth = np.full(len(truth), -1)
    alarms = []
    for row in np.flatnonzero(own_found & counts):
        free = own_truth & (match_of_truth < 0) & (iou[row] >= iou_thr)
        # An ignored annotation matches only what matches nothing else.
        free = free & ~ignore if (free & ~ignore).any() else free
        if free.any():
            # Of equal ones the last, as in LVIS.
            best = np.flatnonzero(free & (iou[row] == iou[row][free].max()))[-1]
            match_of_truth[best] = row
            continue
        kind, other, box = "nothing annotated", None, None
        if len(truth) and iou[row].max() >= iou_thr:
            best = iou[row].argmax()
            kind, box = "duplicate", truth_boxes[best]
            if not own_truth[best]:
                kind, other = "another category", names[truth_category[best]]
        elif own_truth.any() and iou[row][own_truth].max() >= _NEAR:
            kind, box = "badly placed", truth_boxes[own_truth][iou[row][own_truth].argmax()]
        alarms.append(FalseAlarm(image, detection([row]), kind, other, box))

    cases = []
    for index in np.flatnonzero(own_truth & ~ignore):
        if match_of_truth[index] >= 0:
            cases.append(TruthCase(image, truth_boxes[index], detection([match_of_truth[index]])))
            continue
        there = iou[:, index] >= iou_thr
        confused = detection(np.flatnonzero(there & ~own_found & counts))
        below = detection(np.flatnonzero(there & own_found & ~counts))
        cases.append(TruthCase(image, truth_boxes[index], None, confused, below))
    return cases, alarms


def _images_of(
    ground_truth: LVISGroundTruth, groups: np.ndarray | None, category: int
) -> np.ndarray:
    """Images of the groups of a category; all images for None."""
    if groups is None:
        return np.arange(len(ground_truth.image_ids))
    num_categories = len(ground_truth.category_ids)
    return groups[groups % num_categories == category] // num_categories


def _rows_of_images(image: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Of each wanted image, the rows that belong to it, in their order."""
    order = np.argsort(image, kind="stable")
    starts, ends = (np.searchsorted(image[order], wanted, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Count names, the most frequent first and equally frequent ones by name."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
