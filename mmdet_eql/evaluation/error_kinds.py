"""Why AP is lost: the kinds of errors of TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115).

Detections are matched at an IoU of 0.5, as for AP50. A wrong detection is, the first that holds:

- *Loc*, badly placed: an object of its category overlaps it, by an IoU of 0.1 to 0.5;
- *Cls*, another category: an object of another category overlaps it by 0.5 or more;
- *Dupe*, duplicate: an object of its category does, which a better detection has taken;
- *Bkg*, background: no object overlaps it by more than 0.1;
- *Both*, another category and badly placed.

An object that is not found is *Miss*, unless a detection of the kind Loc or Cls is of it. What a
kind costs is the AP50 that is gained when it alone is repaired: the best Loc or Cls detection of an
object that is not found becomes right, under the category of the object; other wrong detections of
the kind go; missed objects are not asked for any more.

With federated labels an image judges the categories that are annotated in it or verified absent. A
detection of any other category is no error, and neither is one that matches nothing where its
category is not exhaustively annotated. It does not explain an object that is not found, either: the
object is a Miss, though it may have been detected as a category that nobody looked for. So Cls
holds confusions with verified categories alone, and is a lower bound. In a COCO file every image
judges every category.

Glossary, besides that of :mod:`mmdet_eql.evaluation.matches`:
    C: categories.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mmdet_eql.evaluation.bootstrap import frequency_means
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, common_rows
from mmdet_eql.evaluation.lvis_evaluation import iou_function, match
from mmdet_eql.evaluation.matches import Matches, accumulate

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
_CLS, _LOC, _BOTH, _DUPE, _BKG = range(5)
#: IoU from which a detection is right, and from which it is near.
FOUND, NEAR = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Errors:
    """The wrong detections, and the objects that are not found.

    Args:
        kind (np.ndarray): Position in ``KINDS`` of each of the D detections, int64 of shape (D,);
            -1 for one that is right or not judged.
        object (np.ndarray): The annotation that the kind speaks of, or that is found, int64 of
            shape (D,); -1 without.
        found (np.ndarray): Whether an annotation is found, bool of shape (G,).
        missed (np.ndarray): Whether it is a Miss, bool of shape (G,).
        repairs (np.ndarray): Whether a detection is the best Loc or Cls detection of an object that
            is not found, bool of shape (D,).
    """

    kind: np.ndarray
    object: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    repairs: np.ndarray


def find_errors(
    ground_truth: LVISGroundTruth, matches: Matches, iou: Callable, found_iou: float = FOUND
) -> Errors:
    """Sort what was matched at one IoU threshold, ``found_iou``, into kinds of errors.

    ``matches`` and ``iou`` are those of the same detections, by
    :func:`~mmdet_eql.evaluation.lvis_evaluation.match` and ``iou_function``.
    """
    kind = np.full(len(matches.image), -1)
    of_object = np.full(len(matches.image), -1)
    of_object[matches.pairs[2]] = matches.pairs[3]
    found = np.zeros(len(ground_truth.image), dtype=bool)
    found[matches.pairs[3]] = True
    counts = matches.object_counts[0]

    wrong = np.flatnonzero(~(matches.right | matches.ignored)[0, 0])
    kind[wrong] = _BKG
    objects = np.flatnonzero(counts)
    shared = common_rows(matches.image[wrong], ground_truth.image[objects])
    for image, rows, there in shared:
        rows, there = wrong[rows], objects[there]
        overlap = iou(image, matches.index[rows], there)
        same = matches.category[rows][:, None] == ground_truth.category[there]
        own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
        best_own, best_other = own.max(axis=1), other.max(axis=1)
        cases = [
            (best_own >= NEAR) & (best_own < found_iou),
            best_other >= found_iou,
            best_own >= found_iou,
            best_other > NEAR,
        ]
        kind[rows] = np.select(cases, [_LOC, _CLS, _DUPE, _BOTH], _BKG)
        own, other = there[own.argmax(axis=1)], there[other.argmax(axis=1)]
        of_object[rows] = np.select(cases, [own, other, own, other], -1)

    # Of each object the best; of equal scores the first in the file.
    near = np.flatnonzero(np.isin(kind, (_CLS, _LOC)))
    near = near[~found[of_object[near]]]
    near = near[np.lexsort((matches.index[near], -matches.score[near], of_object[near]))]
    repairs = np.zeros(len(kind), dtype=bool)
    repairs[near[np.unique(of_object[near], return_index=True)[1]]] = True
    missed = counts & ~found
    missed[of_object[repairs]] = False
    return Errors(kind, of_object, found, missed, repairs)


def error_costs(
    ground_truth: LVISGroundTruth, detections: LVISDetections, iou_type: str
) -> dict[str, dict[str, float]]:
    """Return what each kind of error costs; arguments are those of
    :func:`~mmdet_eql.evaluation.lvis_evaluation.evaluate_detections`.

    Returns:
        dict[str, dict[str, float]]: By ``AP50`` and by kind, ``AP`` of all categories and, if the
        file has frequencies, ``APr``, ``APc`` and ``APf``: of ``AP50`` the metric, of a kind what
        is gained without it, as fractions (NaN without ground truth); and ``number`` of errors.
        Besides the kinds there are ``FP`` and ``FN``: all wrong detections, ranked below all right
        ones, and all objects that are not found, not asked for.
    """
    matches = match(ground_truth, detections, iou_type, np.array([FOUND]))
    iou = iou_function(ground_truth, detections, iou_type, NEAR)
    errors = find_errors(ground_truth, matches, iou)
    right, wrong = matches.right[0, 0], errors.kind >= 0
    lost = matches.object_counts[0] & ~errors.found
    every, nothing = np.ones_like(right), np.zeros_like(lost)
    category_ap = partial(_category_ap, ground_truth, matches)

    rows = {"AP50": category_ap(every, right, matches.category, nothing)}
    for index, name in enumerate(KINDS[:-1]):
        of_kind = errors.kind == index
        repaired = of_kind & errors.repairs
        category = matches.category.copy()
        category[repaired] = ground_truth.category[errors.object[repaired]]
        rows[name] = category_ap(~of_kind | repaired, right | repaired, category, nothing)
    rows["Miss"] = category_ap(every, right, matches.category, errors.missed)
    rows["FP"] = category_ap(~wrong, right, matches.category, nothing)
    rows["FN"] = category_ap(every, right, matches.category, lost)

    means = frequency_means(np.array(list(rows.values())), ground_truth.frequencies)
    numbers = [None, *np.bincount(errors.kind[wrong], minlength=5).tolist()]
    numbers += [int(errors.missed.sum()), int(wrong.sum()), int(lost.sum())]
    costs = {}
    for index, (name, number) in enumerate(zip(rows, numbers, strict=True)):
        costs[name] = {
            group: float(values[0] if index == 0 else max(values[index] - values[0], 0))
            for group, values in means.items()
        }
        if number is not None:
            costs[name]["number"] = number
    return costs


def _category_ap(
    ground_truth: LVISGroundTruth,
    matches: Matches,
    kept: np.ndarray,
    right: np.ndarray,
    category: np.ndarray,
    gone: np.ndarray,
) -> np.ndarray:
    """AP50 of each category: float64 of shape (C,), NaN without ground truth.

    Of the detections, those that are ``kept`` count, as of their ``category``. Objects that are
    ``gone`` are not asked for; where none is left, nothing else is lost, and AP is 1.
    """
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((-matches.score[rows], category[rows]))]
    counts = matches.object_counts
    changed = replace(
        matches,
        category=category[rows],
        right=right[None, None, rows],
        ignored=matches.ignored[:, :, rows],
        object_counts=counts & ~gone,
    )
    precision = accumulate(changed, ground_truth)[0][0, :, :, 0]
    wanted = np.isin(np.arange(precision.shape[1]), ground_truth.category[counts[0]])
    return np.where(precision[0] > -1, precision.mean(axis=0), np.where(wanted, 1, np.nan))
