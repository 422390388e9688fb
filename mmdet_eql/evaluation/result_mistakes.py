"""Which mistake a wrong result file looks like.

Many wrong files are valid records, and their metrics are low without a word. Here are the common
ones: other boxes than x, y, width, height, scores in percent, and ids of another set of categories.
"""

import warnings
from collections.abc import Iterable

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, common_rows
from mmdet_eql.evaluation.lvis_evaluation import MAX_DETECTIONS
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.json_pieces import pause_garbage_collection

#: COCO numbers its 80 categories from 1 to 90.
_COCO_IDS = frozenset(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
#: Numbers of categories of LVIS v0.5 and v1, which number them from 1 on in other orders.
_LVIS_V05, _LVIS_V1 = 1230, 1203
#: Fewer detections or objects say little.
_ENOUGH = 20
#: Share of boxes that leave their image, and pixels per pixel by which they do; detectors clip.
_MANY, _FAR = 0.2, 0.02
#: Share of images without detections from which on a shard may be missing.
_SOME = 0.02
#: Categories of a set such as LVIS, and a score that its detectors go far below.
_HUNDREDS, _LVIS_SCORE = 500, 0.01
#: Boxes looked at, and objects to compare classes.
_BOXES, _OBJECTS = 20_000, 3000


@pause_garbage_collection()
def check_detections(
    path: str, ground_truth: LVISGroundTruth, detections: LVISDetections, ann_file: str
) -> None:
    """Check that the detections of a result file look like detections.

    Raises:
        UserError: If scores are in percent, boxes are corners, centres, relative, or of images of
            another size, detections occur twice, or the categories are the 80 of COCO where there
            are hundreds.
    """
    if not len(detections.score):
        return
    score, num_categories = detections.score, len(ground_truth.category_ids)
    problem = None
    if 1.01 < score.max() <= 100 and score.min() >= 0:  # means of 1 are rounded to more than 1
        problem = (
            f"its scores reach {score.max():g} and look like percent; divide them by 100, since a "
            "score is at most 1"
        )
    elif detections.boxes is not None and len(score) >= _ENOUGH:
        some = slice(None, None, 1 + len(score) // _BOXES)
        sizes = ground_truth.image_sizes[detections.image[some]]
        problem = _problem_of_boxes(detections.boxes[some], sizes)
    seen = ground_truth.category_ids[np.bincount(detections.category, minlength=num_categories) > 0]
    twice = _share_of_repetitions(detections)
    if problem is None and len(score) >= _ENOUGH and twice > _MANY:
        problem = (
            f"{twice:.0%} of its detections are the same as another one, and count as wrong; "
            "write each once"
        )
    if (
        problem is None
        and num_categories >= _HUNDREDS
        and len(seen) >= _ENOUGH
        and seen.max() <= 90
    ):
        problem = (
            f"of the {num_categories:,} categories of {ann_file} only ids up to {seen.max()} "
            "occur, which look like the 80 categories of COCO; write the ids of this annotation "
            "file"
        )
    if problem is not None:
        raise UserError(f"{path}: {problem}.")


def _share_of_repetitions(detections: LVISDetections) -> float:
    """Of the detections of the first images, as many as are looked at."""
    counts = np.cumsum(np.bincount(detections.image))
    some = detections.take(detections.image <= np.searchsorted(counts, _BOXES))
    what = some.masks if some.boxes is None else map(tuple, some.boxes.tolist())
    rows = zip(some.image.tolist(), some.category.tolist(), some.score.tolist(), what, strict=True)
    return 1 - len(set(rows)) / len(some.score)


def describe_limits(
    counts: np.ndarray, lowest_score: float, num_categories: int, limit: float = MAX_DETECTIONS
) -> str | None:
    """Say that a model seems to have given fewer detections than count, as with the settings of
    COCO; None if not, or if there are too few categories to be compared with LVIS, unless more
    detections than usual are to count.

    Args:
        counts (np.ndarray): Number of detections of each image that has some, int64.
        lowest_score (float): Of all detections.
        num_categories (int): Categories that are evaluated.
        limit (float): Detections of an image that count; infinite for Fixed AP and pooled AP.
    """
    like_lvis = num_categories >= _HUNDREDS
    if len(counts) < _ENOUGH or not (like_lvis or MAX_DETECTIONS < limit < np.inf):
        return None
    most = counts.max()
    cut = (counts == most).mean()
    if most < limit and cut > _MANY / 2:
        count = f"{limit} count" if limit < np.inf else "Fixed AP and pooled AP have no limit"
        return (
            f"{cut:.0%} of the images have exactly {most} detections and none has more, as if "
            f"max_per_img of the model were {most}; {count}, and with fewer AP is too low."
        )
    if like_lvis and lowest_score > _LVIS_SCORE:
        return (
            f"no score is below {lowest_score:.2g}, as if score_thr of the model were that; AP on "
            f"LVIS is of all scores from 1e-4 on, and too low without."
        )
    return None


def _problem_of_boxes(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    x, y, width, height = boxes.T
    if np.abs(boxes).max() <= 1 and (boxes[:, 2:] > 0).any():
        return (
            "its boxes are between 0 and 1 and look relative to the image; multiply them by its "
            "width and height"
        )
    limit_x, limit_y = (sizes.T[::-1] * (1 + _FAR)).round() + 1
    share = ((x + width > limit_x) | (y + height > limit_y)).mean()
    if share < _MANY:
        return None
    left = f"{share:.0%} of its boxes, read as x, y, width, height, leave their image; they look"
    corners = (width >= x) & (height >= y)
    inside = (width <= limit_x) & (height <= limit_y)
    if corners.mean() > 0.99 and inside.mean() > 0.9:
        return f"{left} like corners x1, y1, x2, y2; write x1, y1, x2 - x1, y2 - y1"
    inside = (x + width / 2 <= limit_x) & (y + height / 2 <= limit_y)
    inside &= (x - width / 2 >= sizes.T[1] - limit_x) & (y - height / 2 >= sizes.T[0] - limit_y)
    if inside.mean() > 0.9:
        return f"{left} like centres with width and height; write x - width / 2, y - height / 2"
    if share > 0.5:
        return f"{left} like boxes of images of another size; scale them to the original images"
    return None


def warn_of_missing_images(
    path: str, ground_truth: LVISGroundTruth, detections: LVISDetections
) -> None:
    """Warn if many images have no detection at all, as in results on a part of the set."""
    number = len(ground_truth.image_ids)
    missing = number - len(np.unique(detections.image))
    if missing > _SOME * number:
        warnings.warn(
            f"{path}: has no detection in {missing:,} of the {number:,} images, whose objects "
            "count as missed; if it was made on some images, list these (--images); if it is one "
            "of several shards, give all.",
            stacklevel=2,
        )


def explain_unknown_categories(found: Iterable[int], known: np.ndarray) -> str | None:
    """Say what the category ids of a file look like, some of which are unknown; None if unclear."""
    found, number = set(found), len(known)
    if number == _LVIS_V1 and _LVIS_V1 < max(found) <= _LVIS_V05 and min(found) > 0:
        return (
            f"ids up to {max(found):,} look like LVIS v0.5, which has {_LVIS_V05:,} categories in "
            f"another order, where this annotation file has the {_LVIS_V1:,} of v1; give the one "
            "of v0.5"
        )
    if found <= _COCO_IDS and number != len(_COCO_IDS):
        return "they look like the ids of the 80 COCO categories; write those of this file"
    if min(found) == 0 and max(found) < number:
        return "they begin at 0 and look like labels; write the category id of each label"
    if number == len(_COCO_IDS) and max(found) > max(_COCO_IDS):
        return "they look like the ids of LVIS, where this annotation file is COCO's"
    return None


def explain_unknown_images(found: Iterable[int], known: np.ndarray) -> str:
    """Say how many images of a file are unknown, and what it follows from."""
    found = set(found)
    unknown = len(found.difference(known.tolist()))
    if unknown == len(found):
        return "none of its images is, so that it looks like results of another split"
    return (
        f"{unknown:,} of its {len(found):,} images are not, so that it looks like results of "
        "another split or version; to evaluate on some of its images, give the annotation file of "
        "all, and list these (--images)"
    )


def check_classes(
    path: str, ground_truth: LVISGroundTruth, detections: LVISDetections, ann_file: str
) -> None:
    """Check that objects are not found as others, consistently; after masks were checked.

    The best-scored detection of each object says what it is found as, whatever its category.

    Raises:
        UserError: If most objects of a category are found as one other category.
    """
    pairs = _objects_and_findings(ground_truth, detections)[:_OBJECTS]
    if len(pairs) < _ENOUGH:
        return
    (found, found_as), (true, truth) = (np.unique(part, return_inverse=True) for part in pairs.T)
    table = np.zeros((len(found), len(true)), dtype=np.int64)
    np.add.at(table, (found_as, truth), 1)
    truth_of, row = table.argmax(axis=1), np.arange(len(found))
    wrong = (table.argmax(axis=0)[truth_of] == row) & (true[truth_of] != found)
    wrong &= table[row, truth_of] > 1
    share = table[row, truth_of][wrong].sum() / len(pairs)
    agreement = (pairs[:, 0] == pairs[:, 1]).mean()
    if share < max(0.5, 2 * agreement) or wrong.sum() < 3:
        return
    worst = row[wrong][table[row, truth_of][wrong].argmax()]
    names, ids = ground_truth.category_names, ground_truth.category_ids
    was, should = found[worst], true[truth_of[worst]]
    raise UserError(
        f"{path}: its classes look to be in another order, or of another LVIS version: "
        f"{names[should]!r} (id {ids[should]}) is found as {names[was]!r} (id {ids[was]}), and "
        f"{share:.0%} of the objects are as consistently wrong; write the ids of {ann_file}."
    )


def _objects_and_findings(ground_truth: LVISGroundTruth, detections: LVISDetections) -> np.ndarray:
    """What objects are found as, and what they are: positions of categories, shape (N, 2)."""
    # Images with twice as many objects as are looked at, since some are not found.
    last = np.sort(ground_truth.image)[: 2 * _OBJECTS].max(initial=-1)
    some = np.flatnonzero(detections.image <= last)
    pairs, number = [np.zeros((0, 2), dtype=np.int64)], 0
    for image, objects, here in common_rows(ground_truth.image, detections.image[some]):
        here = some[here]
        if detections.boxes is not None:
            boxes = detections.boxes[here]
        else:
            size = ground_truth.image_sizes[image].tolist()
            rles = [{"size": size, "counts": counts} for counts in detections.masks[here]]
            boxes = mask_utils.toBbox(rles)
        crowd = np.zeros(len(objects), dtype=np.uint8)
        iou = mask_utils.iou(boxes, ground_truth.boxes[objects], crowd)
        best = np.where(iou >= 0.5, detections.score[here][:, None], -np.inf)
        hit = best.max(axis=0) > -np.inf
        found_as = detections.category[here[best.argmax(axis=0)[hit]]]
        pairs.append(np.stack([found_as, ground_truth.category[objects[hit]]], axis=1))
        number += hit.sum()
        if number >= _OBJECTS:
            break
    return np.concatenate(pairs)
