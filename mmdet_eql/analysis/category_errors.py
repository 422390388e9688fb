"""Hits, misses, false alarms and confusions of one category.

Detections are matched and sorted as by :mod:`mmdet_eql.evaluation.error_kinds`, without a limit per
image. Boxes are x, y, width, height in pixels, as in result files.
"""

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation import error_kinds
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import iou_function, match
from mmdet_eql.utils.errors import UserError

#: Kinds of wrong detections, for people.
_WORDS = {
    "Cls": "another category",
    "Loc": "badly placed",
    "Both": "another category, badly placed",
    "Dupe": "duplicate",
    "Bkg": "nothing annotated",
}


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
        kind (str): ``"another category"``, ``"badly placed"``, ``"duplicate"``, ``"nothing
            annotated"``, or ``"another category, badly placed"``.
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
    num_categories, judged = len(ground_truth.category_ids), ground_truth.judged
    if judged is None:
        judged = np.arange(len(ground_truth.image_ids))
    else:
        judged = judged[judged % num_categories == category] // num_categories
    own = ground_truth.category == category
    of_category = (detections.category == category) & (detections.score >= score_thr)
    is_judged = np.isin(detections.image, judged)
    images = np.union1d(ground_truth.image[own], detections.image[of_category & is_judged])
    detections = detections.take(np.isin(detections.image, images))

    counting = detections.take(detections.score >= score_thr)
    matches = match(ground_truth, counting, "bbox", [iou_thr], None)
    errors = error_kinds.find_errors(
        ground_truth, matches, iou_function(ground_truth, counting, "bbox", iou_thr), iou_thr
    )
    names = ground_truth.category_names

    def detection(row: int, of: LVISDetections = counting) -> Detection:
        return Detection(names[of.category[row]], float(of.score[row]), of.boxes[row])

    false_alarms, of_this = [], matches.category == category
    for row in np.flatnonzero(of_this & (errors.kind >= 0)).tolist():
        kind, at = error_kinds.KINDS[errors.kind[row]], errors.object[row]
        alarm = FalseAlarm(int(matches.image[row]), detection(matches.index[row]), _WORDS[kind])
        if at >= 0:
            alarm = replace(alarm, truth_box=ground_truth.boxes[at])
        if kind in ("Cls", "Both"):
            alarm = replace(alarm, truth_category=names[ground_truth.category[at]])
        false_alarms.append(alarm)

    found_by = dict(zip(matches.pairs[3].tolist(), matches.index[matches.pairs[2]], strict=True))
    # By falling score in an image; of equal scores the first goes first.
    by_score = np.lexsort((-detections.score, detections.image))
    bounds = np.arange(len(ground_truth.image_ids) + 1)
    starts = np.searchsorted(detections.image[by_score], bounds)
    truths = []
    for at in np.flatnonzero(own & ~ground_truth.ignore).tolist():
        image, box = int(ground_truth.image[at]), ground_truth.boxes[at]
        if at in found_by:
            truths.append(TruthCase(image, box, detection(found_by[at])))
            continue
        there = by_score[starts[image] : starts[image + 1]]
        overlap = mask_utils.iou(detections.boxes[there], box[None], [0]) if len(there) else there
        there = there[np.reshape(overlap, -1) >= iou_thr]
        is_own = detections.category[there] == category
        counts = detections.score[there] >= score_thr
        seen = (
            detection(rows[0], detections) if len(rows) else None
            for rows in (there[~is_own & counts], there[is_own & ~counts])
        )
        truths.append(TruthCase(image, box, None, *seen))

    unmatched = np.ones(len(of_this), dtype=bool)
    unmatched[matches.pairs[2]] = False
    frequencies = ground_truth.frequencies
    return CategoryErrors(
        category=names[category],
        frequency="" if frequencies is None else str(frequencies[category]),
        truths=truths,
        false_alarms=sorted(false_alarms, key=lambda alarm: -alarm.detection.score),
        num_absent=len(np.setdiff1d(judged, ground_truth.image[own])),
        num_excused=int((of_this & matches.ignored[0, 0] & unmatched).sum()),
        num_unjudged=int((of_category & ~is_judged).sum()),
        iou_thr=iou_thr,
        score_thr=score_thr,
    )


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Count names, the most frequent first and equally frequent ones by name."""
    return dict(Counter(sorted(names)).most_common())
