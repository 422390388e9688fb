"""Names of the metrics of ``LVISFastMetric``, and checks of the arguments that choose metrics."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmdet_eql.evaluation.lvis_evaluation import IOU_TYPES
from mmdet_eql.utils.errors import UserError

MASK_METRICS = ("segm", "boundary")
PROPOSAL_METRICS = ("proposal", "proposal_fast")
AP_ITEMS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
AR_ITEMS = ("AR", "ARs", "ARm", "ARl")
#: What options of ``LVISFastMetric`` add to the items of a metric.
ITEMS_OF_OPTIONS = {
    "fixed_ap": ["fixed_AP*"],
    "pooled_ap": ["pooled_AP*"],
    "bootstrap": ["*_low", "*_high"],
    "classwise": ["*_precision"],
}
ITEMS_BY_FREQUENCY = ("APr", "APc", "APf", "ARr", "ARc", "ARf")


def check_metrics(
    metrics: Sequence[str],
    classwise: bool,
    proposal_nums: Sequence[int],
    iou_thrs: Sequence[float],
    items: Sequence[str] | None,
    max_detections: int,
    collect_device: str,
) -> None:
    """Check arguments of ``LVISFastMetric``.

    Raises:
        UserError: If one is invalid, or an item of ``metric_items`` is none that the metrics give.
    """
    allowed = IOU_TYPES + PROPOSAL_METRICS
    problem = None
    if not metrics or any(name not in allowed for name in metrics):
        problem = f"'metric' is {metrics!r}; choose among {', '.join(allowed)}."
    elif set(metrics) >= set(PROPOSAL_METRICS):
        problem = (
            "'proposal' and 'proposal_fast' both give AR@N; use two evaluators with different "
            "'prefix'."
        )
    elif classwise and not set(metrics) & set(IOU_TYPES):
        problem = (
            "'classwise' needs the metric 'bbox' or 'segm'; the recall of proposals is blind to "
            "categories."
        )
    elif not proposal_nums or not all(type(num) is int and num > 0 for num in proposal_nums):
        problem = f"'proposal_nums' is {proposal_nums!r}; give whole numbers above 0."
    elif not len(iou_thrs) or not all(
        isinstance(threshold, (int, float)) and 0 < threshold <= 1 for threshold in iou_thrs
    ):
        problem = f"'iou_thrs' is {iou_thrs!r}; give IoU thresholds above 0 and up to 1."
    elif type(max_detections) is not int or max_detections < 1:
        problem = f"'max_detections' is {max_detections!r}; give a whole number above 0."
    elif collect_device not in ("cpu", "gpu"):
        problem = f"'collect_device' is {collect_device!r}; it must be 'cpu' or 'gpu'."
    elif items is not None:
        problem = _problem_of_items(items, metrics, proposal_nums, iou_thrs, max_detections)
    if problem is not None:
        raise UserError(f"LVISFastMetric: {problem}")


def list_names(
    metrics: Sequence[str],
    proposal_nums: Sequence[int],
    items: Sequence[str] | None,
    options: Sequence[str],
    grouped: bool,
) -> list[str]:
    """Return the names that ``LVISFastMetric`` gives, and patterns of others.

    ``options`` are keys of :data:`ITEMS_OF_OPTIONS`; ``grouped`` is whether there are rare, common
    and frequent categories.
    """
    of_ap = items or [item for item in AP_ITEMS if grouped or item not in ITEMS_BY_FREQUENCY]
    of_ap = [*of_ap, *(item for option in options for item in ITEMS_OF_OPTIONS[option])]
    names = []
    for metric in metrics:
        if metric in IOU_TYPES:
            names += [f"{metric}_{item}" for item in of_ap]
        else:
            recalls = AR_ITEMS if metric == "proposal" else ("AR",)
            recalls = [f"{item}@{num}" for item in recalls for num in proposal_nums]
            names += [item for item in recalls if items is None or item in items]
    return names


def check_number(name: str, value: bool | int | None, default: int) -> int | None:
    """Return the number that an option stands for: ``default`` for True, None for False and None.

    Raises:
        UserError: If it is neither that nor a positive whole number.
    """
    if value is None or isinstance(value, bool):
        return default if value else None
    if isinstance(value, (int, np.integer)) and value > 0:
        return int(value)
    raise UserError(
        f"'{name}' is {value!r}; give True for {default:,}, a whole number above 0 or False."
    )


def _problem_of_items(
    items: Sequence[str],
    metrics: Sequence[str],
    proposal_nums: Sequence[int],
    iou_thrs: Sequence[float],
    max_detections: int,
) -> str | None:
    known = set()
    if set(metrics) & set(IOU_TYPES):
        known.update(AP_ITEMS)
        known.update(f"{item}@{max_detections}" for item in AR_ITEMS + ITEMS_BY_FREQUENCY[3:])
    if set(metrics) & set(PROPOSAL_METRICS):
        recall_items = AR_ITEMS if "proposal" in metrics else ("AR",)
        known.update(f"{item}@{num}" for item in recall_items for num in proposal_nums)
    for item in items:
        if item not in known:
            return (
                f"'metric_items' names {item!r}, which {', '.join(metrics)} does not give; choose "
                f"among {', '.join(sorted(known))}."
            )
    for item, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        if item in items and not np.isclose(iou_thrs, threshold).any():
            return (
                f"'metric_items' names {item}, but 'iou_thrs' does not hold {threshold}; add it "
                f"there or remove {item}."
            )
    return None


def check_groups(
    metric_items: Sequence[str] | None, frequencies: np.ndarray | None, ann_file: str
) -> None:
    """Raise a UserError if metrics of frequency groups are asked for and there are no groups."""
    asked = {item.split("@")[0] for item in metric_items or ()} & set(ITEMS_BY_FREQUENCY)
    if asked and frequencies is None:
        raise UserError(
            f"{ann_file}: the categories have no field 'frequency', which metrics of rare, common "
            f"and frequent categories ({', '.join(ITEMS_BY_FREQUENCY)}) need; add it, set "
            "'train_ann_file', or remove these from 'metric_items'."
        )


def as_tuple(value: Any) -> tuple:
    """Return a value as a tuple of one, or the different ones of several in their order."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(dict.fromkeys(value))
