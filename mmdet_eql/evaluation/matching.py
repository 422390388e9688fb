"""Matching and accumulation by hotcoco: columns in, precision and recall arrays out.

hotcoco (https://github.com/derekallman/hotcoco) implements the LVIS protocol in Rust. It checks
little of its input, which is checked before. Two rules of lvis-api that it does not have are
expressed in its input:

- An annotation to ignore gets an area beyond all area ranges, so that each of them ignores it.
- The area of a mask is that of its box where results have both, else its own. hotcoco takes width
  times height of the box that comes with a mask; the box that it gets has the right area.
"""

import os

import numpy as np
from hotcoco import COCO, LVISEval

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.utils.errors import UserError

#: Smallest and largest area in square pixels, both inclusive.
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
_BEYOND_ALL_RANGES = 1e12
#: The process that has hotcoco's threads, once it has evaluated.
_process: int | None = None


def precision_recall(
    ground_truth: LVISGroundTruth,
    detections: LVISDetections,
    area: np.ndarray,
    iou_type: str,
    iou_thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Match detections with annotations by the rules of LVIS, and accumulate.

    Args:
        ground_truth (LVISGroundTruth): Annotations; with masks for 'segm'.
        detections (LVISDetections): Boxes for 'bbox', masks for 'segm', with an area and in images
            that judge their category.
        area (np.ndarray): Area of each detection, float64 of shape (D,).
        iou_type (str): 'bbox' or 'segm'.
        iou_thresholds (np.ndarray): float64 of shape (T,).

    Returns:
        tuple: Precision of shape (T, R, C, A) and recall of shape (T, C, A), float64; R are the
        recall thresholds 0, 0.01, ..., 1. -1 for a category without ground truth in the area range.

    Raises:
        UserError: If this process was forked from one that has evaluated.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise UserError(
            "this process was forked from one that has evaluated, and would wait for ever for that "
            "one's threads; start processes by multiprocessing's 'spawn'."
        )
    with_masks = iou_type == "segm"
    truth = COCO.from_arrays(
        _images(ground_truth, detections),
        [{"id": index, "name": str(index)} for index in range(len(ground_truth.category_ids))],
        ground_truth.image,
        ground_truth.category,
        ground_truth.boxes,
        area=np.where(ground_truth.ignore, _BEYOND_ALL_RANGES, ground_truth.area),
        segmentation=_masks(ground_truth, ground_truth) if with_masks else None,
    )
    # Columns: image, x, y, width, height, score, category.
    table = np.zeros((len(detections.score), 7))
    table[:, 0] = detections.image
    if with_masks:
        table[:, 3], table[:, 4] = area, 1
    else:
        table[:, 1:5] = detections.boxes
    table[:, 5] = detections.score
    table[:, 6] = detections.category
    masks = _masks(ground_truth, detections) if with_masks else None
    found = truth.load_res(table, segmentation=masks)
    del table, masks
    # Without this, hotcoco applies its own limit of 300 detections per image; the copy is released.
    found = found.cap_detections_per_image(None)
    evaluation = LVISEval(truth, found, iou_type)
    evaluation.params.iou_thrs = iou_thresholds.tolist()
    evaluation.params.area_rng = [list(limits) for limits in AREA_RANGES.values()]
    evaluation.params.area_rng_lbl = list(AREA_RANGES)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated = evaluation.eval  # a copy at each access
    # The last axis is that of the limits on detections, of which there is one.
    return accumulated["precision"][..., 0], accumulated["recall"][..., 0]


def _images(ground_truth: LVISGroundTruth, detections: LVISDetections) -> list[dict]:
    """Image records, with the categories that each image judges."""
    num_categories = len(ground_truth.category_ids)
    judged = ground_truth.judged
    if judged is None:  # all categories; those that were not detected change nothing
        judged = np.unique(detections.image * num_categories + detections.category)

    def of_images(groups: np.ndarray) -> list[list[int]]:
        image, category = np.divmod(groups, num_categories)
        bounds = np.searchsorted(image, np.arange(1, len(ground_truth.image_ids)))
        return [part.tolist() for part in np.split(category, bounds)]

    sizes, partly = ground_truth.image_sizes.tolist(), of_images(ground_truth.not_exhaustive)
    names = "id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"
    rows = zip(sizes, of_images(judged), partly, strict=True)
    return [
        dict(zip(names, (index, *size, *lists), strict=True))
        for index, (size, *lists) in enumerate(rows)
    ]


def _masks(ground_truth: LVISGroundTruth, of: LVISGroundTruth | LVISDetections) -> list[dict]:
    sizes = ground_truth.image_sizes.tolist()
    rows = zip(of.image.tolist(), of.masks, strict=True)
    return [{"size": sizes[image], "counts": counts} for image, counts in rows]
