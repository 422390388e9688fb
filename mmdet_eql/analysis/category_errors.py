"""What a detector made of one category: hits, misses, false alarms, and what it was confused with.

Detections are matched to annotations as in the LVIS protocol, at one IoU threshold: the highest
score first, each to the annotation of its image and category that it overlaps most and that is not
taken. An image judges a category only if it is annotated there or verified absent; elsewhere a
detection is neither right nor wrong, and so is one that matches nothing in an image where the
category is not exhaustively annotated.

Boxes are x, y, width, height in pixels, as in result files.
"""

import difflib
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.lvis_evaluation import LVISDetections, LVISGroundTruth
from mmdet_eql.utils.errors import UserError

#: A false alarm that overlaps an annotation of its category at least so much is badly placed.
_NEAR = 0.1


@dataclass(frozen=True)
class Detection:
    """A detection beside an annotation.

    Args:
        category (str): Name of its category.
        score (float): Its score.
        box (np.ndarray): Shape (4,).
    """

    category: str
    score: float
    box: np.ndarray


@dataclass(frozen=True)
class TruthCase:
    """An annotation of the category, and what was found there.

    Args:
        image (int): Position of its image in ``LVISGroundTruth.image_ids``.
        box (np.ndarray): Shape (4,).
        found (Detection, optional): The detection that matches it; None if it was missed.
        confused (Detection, optional): Of a miss, the best detection of another category there.
        below (Detection, optional): Of a miss, the best detection of the category there whose score
            is too low.
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
        detection (Detection): The detection.
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
    """What a detector made of a category.

    Args:
        category (str): Its name.
        frequency (str): ``"r"``, ``"c"`` or ``"f"``, or ``""`` if the annotations do not say.
        truths (list[TruthCase]): Its annotations.
        false_alarms (list[FalseAlarm]): Wrong detections, by falling score.
        num_absent (int): Number of images that are verified not to contain it.
        num_excused (int): Detections that match nothing where it is not exhaustively annotated.
        num_unjudged (int): Detections in images that do not judge it.
        iou_thr (float): IoU from which boxes match.
        score_thr (float): Least score of a detection that counts.
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
        """Annotations that were found, by falling score."""
        hits = [case for case in self.truths if case.found is not None]
        return sorted(hits, key=lambda case: -case.found.score)

    @property
    def misses(self) -> list[TruthCase]:
        """Annotations that were not found, the largest first."""
        misses = [case for case in self.truths if case.found is None]
        return sorted(misses, key=lambda case: -case.box[2] * case.box[3])

    def mistaken_for(self) -> dict[str, int]:
        """Other categories that were seen where this one was missed, and how often."""
        return _count(case.confused.category for case in self.misses if case.confused is not None)

    def mistaken_from(self) -> dict[str, int]:
        """Other categories that this one was seen in, and how often."""
        return _count(alarm.truth_category for alarm in self.false_alarms if alarm.truth_category)


def find_category(ground_truth: LVISGroundTruth, name: str) -> int:
    """The position of a category.

    Raises:
        UserError: If there is none of that name.
    """
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
    """Sort the annotations and detections of a category.

    Args:
        ground_truth (LVISGroundTruth): What the annotation file says.
        detections (LVISDetections): Boxes of all categories.
        category (int): Position of the category.
        iou_thr (float): IoU from which boxes match.
        score_thr (float): Least score of a detection that counts.

    Returns:
        CategoryErrors: What the detector made of it.
    """
    num_categories = len(ground_truth.category_ids)
    judged, excused = (
        groups[groups % num_categories == category] // num_categories
        for groups in (ground_truth.labelled, ground_truth.not_exhaustive)
    )
    of_category = detections.category == category
    counts = of_category & (detections.score >= score_thr)
    is_judged = np.isin(detections.image, judged)

    truths, false_alarms, num_excused = [], [], 0
    own = ground_truth.category == category
    images = np.union1d(ground_truth.image[own], detections.image[counts & is_judged])
    truth_rows = _rows_of_images(ground_truth.image, images)
    detection_rows = _rows_of_images(detections.image, images)
    for image, in_truth, in_detections in zip(images, truth_rows, detection_rows, strict=True):
        sort = _ImageSorter(
            ground_truth, detections, category, iou_thr, score_thr, in_truth, in_detections
        )
        truths += [TruthCase(int(image), *case) for case in sort.truths()]
        alarms = [FalseAlarm(int(image), *alarm) for alarm in sort.false_alarms()]
        if image in excused:
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


class _ImageSorter:
    """The annotations and detections of one image."""

    def __init__(
        self,
        ground_truth: LVISGroundTruth,
        detections: LVISDetections,
        category: int,
        iou_thr: float,
        score_thr: float,
        in_truth: np.ndarray,
        in_detections: np.ndarray,
    ) -> None:
        self.names = ground_truth.category_names
        self.category = category
        self.iou_thr = iou_thr
        self.truth_boxes = ground_truth.boxes[in_truth]
        self.truth_category = ground_truth.category[in_truth]
        self.set_aside = ground_truth.ignore[in_truth]
        # By falling score; of equal scores the first goes first.
        by_score = in_detections[np.argsort(-detections.score[in_detections], kind="stable")]
        self.boxes = detections.boxes[by_score]
        self.score = detections.score[by_score]
        self.label = detections.category[by_score]
        self.counts = self.score >= score_thr
        self.iou = _ious(self.boxes, self.truth_boxes)
        self._match()

    def _match(self) -> None:
        """The detection of each annotation of the category, and the other way round; -1: none."""
        self.detection_of = np.full(len(self.truth_boxes), -1)
        self.truth_of = np.full(len(self.boxes), -1)
        own = self.truth_category == self.category
        for index in np.flatnonzero((self.label == self.category) & self.counts):
            # What is set aside matches only what matches nothing else.
            for candidates in (own & ~self.set_aside, own & self.set_aside):
                free = candidates & (self.detection_of < 0) & (self.iou[index] >= self.iou_thr)
                if free.any():
                    # Of equal ones the last, as in LVIS.
                    best = np.flatnonzero(free & (self.iou[index] == self.iou[index][free].max()))[
                        -1
                    ]
                    self.detection_of[best], self.truth_of[index] = index, best
                    break

    def truths(self) -> list[tuple]:
        """Box, match, and of a miss what was found instead."""
        cases = []
        for index in np.flatnonzero((self.truth_category == self.category) & ~self.set_aside):
            box, match = self.truth_boxes[index], self.detection_of[index]
            if match >= 0:
                cases.append((box, self._detection(match)))
                continue
            there = self.iou[:, index] >= self.iou_thr
            is_own = self.label == self.category
            confused = np.flatnonzero(there & ~is_own & self.counts)
            below = np.flatnonzero(there & is_own & ~self.counts)
            cases.append(
                (
                    box,
                    None,
                    self._detection(confused[0]) if len(confused) else None,
                    self._detection(below[0]) if len(below) else None,
                )
            )
        return cases

    def false_alarms(self) -> list[tuple]:
        """Detection, kind, and the annotation that it names."""
        alarms = []
        own = self.truth_category == self.category
        for index in np.flatnonzero((self.label == self.category) & self.counts):
            if self.truth_of[index] >= 0:
                continue
            iou = self.iou[index]
            kind, other, box = "nothing annotated", None, None
            if len(iou) and iou.max() >= self.iou_thr:
                best = iou.argmax()
                kind, box = "duplicate", self.truth_boxes[best]
                if not own[best]:
                    kind, other = "another category", self.names[self.truth_category[best]]
            elif own.any() and iou[own].max() >= _NEAR:
                kind, box = "badly placed", self.truth_boxes[own][iou[own].argmax()]
            alarm = (self._detection(index), kind, other, box)
            alarms.append(alarm)
        return alarms

    def _detection(self, index: int) -> Detection:
        return Detection(self.names[self.label[index]], float(self.score[index]), self.boxes[index])


def _rows_of_images(image: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Of each wanted image, the rows that belong to it, in their order."""
    order = np.argsort(image, kind="stable")
    starts, ends = (np.searchsorted(image[order], wanted, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    return np.asarray(mask_utils.iou(boxes, others, np.zeros(len(others), np.uint8)))


def _count(names) -> dict[str, int]:
    counts = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
