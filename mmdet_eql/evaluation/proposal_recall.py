"""Recall of object proposals, blind to categories: by score or by best match."""

import logging
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, common_rows
from mmdet_eql.evaluation.lvis_evaluation import evaluate_detections


def proposal_recall(
    ground_truth: LVISGroundTruth,
    proposals: LVISDetections,
    proposal_nums: Sequence[int],
    iou_thresholds: np.ndarray,
) -> np.ndarray:
    """Return the share of the annotated objects that some proposal covers, blind to categories.

    In each image the pair of proposal and object with the highest IoU is taken out until none is
    left, whatever the scores: the definition behind mmdet's ``proposal_fast``. Scores only choose
    which proposals take part.

    Args:
        ground_truth (LVISGroundTruth): Annotations.
        proposals (LVISDetections): Boxes.
        proposal_nums (Sequence[int]): Numbers N of best-scored proposals per image to try.
        iou_thresholds (np.ndarray): IoU from which an object counts as covered, shape (T,).

    Returns:
        np.ndarray: Recall, float64 of shape (N, T); -1 without any object.
    """
    wanted = np.flatnonzero(~ground_truth.ignore)
    best_first = np.argsort(-proposals.score, kind="stable")
    covered = np.zeros((len(proposal_nums), len(iou_thresholds)))
    rows = common_rows(ground_truth.image[wanted], proposals.image[best_first])
    for _, objects, candidates in rows:
        candidates = best_first[candidates[: max(proposal_nums)]]
        crowd = np.zeros(len(candidates), dtype=np.uint8)
        boxes = ground_truth.boxes[wanted[objects]], proposals.boxes[candidates]
        iou = mask_utils.iou(*boxes, crowd)
        for row, num in enumerate(proposal_nums):
            best = _best_first(iou[:, :num].copy())
            covered[row] += (best[:, None] >= iou_thresholds).sum(axis=0)
    return covered / len(wanted) if len(wanted) else np.full_like(covered, -1.0)


def proposal_metrics(
    ground_truth: LVISGroundTruth,
    proposals: LVISDetections,
    metric: str,
    proposal_nums: Sequence[int],
    iou_thresholds: np.ndarray,
    logger: logging.Logger,
) -> dict[str, float]:
    """Return ``AR@N`` for each number of proposals: the metrics of 'proposal' or 'proposal_fast'.

    'proposal' matches by score as AP does, and has ARs, ARm and ARl as well. A warning is logged of
    a number that no image has.
    """
    most = np.bincount(proposals.image, minlength=1).max()
    if most < max(proposal_nums):
        logger.warning(
            f"no image has more than {most} proposals, so that AR@{max(proposal_nums)} is of "
            f"{most}; raise max_per_img of the model's test_cfg, or give other proposal_nums."
        )
    if metric == "proposal_fast":
        recall = proposal_recall(ground_truth, proposals, proposal_nums, iou_thresholds)
        means = zip(proposal_nums, recall.mean(axis=1).tolist(), strict=True)
        return {f"AR@{num}": mean for num, mean in means}
    values, objects = {}, ground_truth.merge_categories()
    for num in proposal_nums:
        evaluation = evaluate_detections(objects, proposals, "bbox", iou_thresholds, num)
        values |= {k: v for k, v in evaluation.metrics().items() if k.startswith("AR")}
    return values


def _best_first(iou: np.ndarray) -> np.ndarray:
    """IoU of the pairs that are taken out of a matrix, best first; ``iou`` is used up."""
    best = np.zeros(min(iou.shape))
    for index in range(len(best)):
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        best[index] = iou[row, column]
        iou[row, :] = iou[:, column] = -1
    return best
