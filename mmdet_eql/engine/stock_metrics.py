"""Metrics of other packages: where they collect results, and which category a label is to them."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmengine.dist import get_world_size
from mmengine.logging import print_log

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.gathered_metric import GatheredMetric


def prepare_stock_metric(metric: Any, classes: Sequence[str] | None, split: str) -> None:
    """Have a metric collect results by messages, and check its order of categories.

    mmengine's metrics write them to files in the current folder, which may be read-only, or not
    shared by the nodes of a job. Those of MMDetection take label i as the i-th category in their
    annotation file.

    A warning is logged of a COCO metric on an LVIS file.

    Args:
        metric: A metric; those of this package are left as they are.
        classes (Sequence[str], optional): Names of the model's labels.
        split (str): ``"val"`` or ``"test"``.

    Raises:
        UserError: If the labels would be other categories.
    """
    if isinstance(metric, GatheredMetric):
        return
    is_cpu = getattr(metric, "collect_device", None) == "cpu"
    if get_world_size() > 1 and is_cpu and metric.collect_dir is None:
        metric.collect_device = "gpu"  # by messages, whatever the device
    lvis, coco = getattr(metric, "_lvis_api", None), getattr(metric, "_coco_api", None)
    if classes is None or (lvis is None and coco is None):
        return
    if coco is not None and any("neg_category_ids" in one for one in coco.dataset["images"]):
        print_log(
            f"{split}_evaluator: {type(metric).__name__} counts each detection in an image where "
            "nobody looked for its category as wrong, and its annotation file is LVIS's; use "
            "type='LVISFastMetric'.",
            "current",
            logging.WARNING,
        )
    names = [category["name"] for category in (lvis or coco).dataset["categories"]]
    # The COCO metrics look for the classes, the LVIS metric takes all categories.
    taken = names if coco is None else [name for name in names if name in set(classes)]
    for name, other in zip_longest(classes, taken, fillvalue="none"):
        if name != other:
            raise UserError(
                f"{split}_evaluator: {type(metric).__name__} takes labels in the order of the "
                f"categories in its annotation file, which is not that of the model's classes: "
                f"{name!r} would be {other!r}; use type='LVISFastMetric', which goes by name."
            )
