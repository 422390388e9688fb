"""Names of the metrics of ``LVISFastMetric``, and checks of the arguments that choose them."""

from collections.abc import Sequence

import numpy as np

from mmdet_eql.evaluation.lvis_evaluation import IOU_TYPES, MAX_DETECTIONS
from mmdet_eql.utils.errors import UserError

PROPOSAL_METRICS = ("proposal", "proposal_fast")
AP_ITEMS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
AR_ITEMS = ("AR", "ARs", "ARm", "ARl")
_AR_ITEMS_BY_FREQUENCY = ("ARr", "ARc", "ARf")
ITEMS_BY_FREQUENCY = ("APr", "APc", "APf", *_AR_ITEMS_BY_FREQUENCY)


def check_metrics(
    metrics: Sequence[str],
    classwise: bool,
    proposal_nums: Sequence[int],
    iou_thrs: Sequence[float],
) -> None:
    """Check arguments of ``LVISFastMetric``, which see.

    Raises:
        UserError: If one of them is invalid.
    """
    allowed = IOU_TYPES + PROPOSAL_METRICS
    if not metrics or any(name not in allowed for name in metrics):
        raise UserError(
            f"LVISFastMetric: 'metric' is {metrics!r}; choose among {', '.join(allowed)}."
        )
    if set(metrics) >= set(PROPOSAL_METRICS):
        raise UserError(
            "LVISFastMetric: 'proposal' and 'proposal_fast' both give AR@N; use two evaluators "
            "with different 'prefix'."
        )
    if classwise and not set(metrics) & set(IOU_TYPES):
        raise UserError(
            "LVISFastMetric: 'classwise' needs the metric 'bbox' or 'segm'; the recall of "
            "proposals is blind to categories."
        )
    if not proposal_nums or not all(type(num) is int and num > 0 for num in proposal_nums):
        raise UserError(
            f"LVISFastMetric: 'proposal_nums' is {proposal_nums!r}; give whole numbers above 0."
        )
    if not len(iou_thrs) or not all(
        isinstance(threshold, (int, float)) and 0 < threshold <= 1 for threshold in iou_thrs
    ):
        raise UserError(
            f"LVISFastMetric: 'iou_thrs' is {iou_thrs!r}; give IoU thresholds above 0 and up to 1."
        )


def check_metric_items(
    items: Sequence[str] | None,
    metrics: Sequence[str],
    proposal_nums: Sequence[int],
    iou_thrs: Sequence[float],
) -> None:
    """Check that the chosen items are among those that the metrics give.

    Raises:
        UserError: If one of them is not.
    """
    if items is None:
        return
    known = set()
    if set(metrics) & set(IOU_TYPES):
        recall_items = AR_ITEMS + _AR_ITEMS_BY_FREQUENCY
        known.update(AP_ITEMS, (f"{item}@{MAX_DETECTIONS}" for item in recall_items))
    if "proposal" in metrics:
        known.update(f"{item}@{num}" for item in AR_ITEMS for num in proposal_nums)
    if "proposal_fast" in metrics:
        known.update(f"AR@{num}" for num in proposal_nums)
    unknown = [item for item in items if item not in known]
    if unknown:
        raise UserError(
            f"LVISFastMetric: 'metric_items' names {unknown[0]!r}, which {', '.join(metrics)} does "
            f"not give; choose among {', '.join(sorted(known))}."
        )
    for item, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        if item in items and not np.isclose(iou_thrs, threshold).any():
            raise UserError(
                f"LVISFastMetric: 'metric_items' names {item}, but 'iou_thrs' does not hold "
                f"{threshold}; add it there or remove {item}."
            )
