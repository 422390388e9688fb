"""Metrics as tables for the log, and AP of each category as records for a file."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np
from terminaltables import AsciiTable

from mmdet_eql.evaluation.columns import LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import LVISEvaluation


def metric_table(evaluations: Mapping[str, LVISEvaluation]) -> str:
    """Return AP, AP50 and so on in percent: a table with a row for each evaluation."""
    metrics = {name: evaluation.metrics() for name, evaluation in evaluations.items()}
    items = dict.fromkeys(item for of in metrics.values() for item in of if "@" not in item)
    rows = [["LVIS (%)", *items]]
    for name, values in metrics.items():
        rows.append([name, *(_percent(values.get(item, -1)) for item in items)])
    return AsciiTable(rows).table


def category_table(metric: str, names: Sequence[str], category_ap: Sequence[float]) -> str:
    """Return the AP of C categories in percent: a table of three columns of categories.

    Args:
        metric (str): 'bbox' or 'segm', for the header.
        names (Sequence[str]): C names.
        category_ap (Sequence[float]): C fractions, NaN without ground truth.
    """
    cells = chain.from_iterable(
        (name, _percent(ap)) for name, ap in zip(names, category_ap, strict=True)
    )
    header = ["category", f"{metric} AP (%)"] * min(3, len(names))
    return AsciiTable([header, *map(list, zip_longest(*[cells] * len(header), fillvalue=""))]).table


def category_records(
    ground_truth: LVISGroundTruth, evaluations: Mapping[str, LVISEvaluation]
) -> list[dict]:
    """Return the AP of each category, for a file.

    Args:
        ground_truth (LVISGroundTruth): What was evaluated on.
        evaluations (Mapping[str, LVISEvaluation]): By 'bbox' and 'segm'.

    Returns:
        list[dict]: Of each category ``id``, ``name``, ``frequency`` if it is known,
        ``num_annotations``, and ``bbox_AP`` and ``segm_AP``: fractions, or None without ground
        truth.
    """
    counts = np.bincount(ground_truth.category, minlength=len(ground_truth.category_ids)).tolist()
    category_ap = {name: one.category_ap().tolist() for name, one in evaluations.items()}
    records = []
    for index, category_id in enumerate(ground_truth.category_ids.tolist()):
        record = {"id": category_id, "name": ground_truth.category_names[index]}
        if ground_truth.frequencies is not None:
            record["frequency"] = str(ground_truth.frequencies[index])
        record["num_annotations"] = counts[index]
        for name, values in category_ap.items():
            record[f"{name}_AP"] = None if math.isnan(values[index]) else values[index]
        records.append(record)
    return records


def _percent(fraction: float) -> str:
    """A fraction in percent, or a dash where there is no ground truth."""
    return f"{100 * fraction:.2f}" if fraction >= 0 else "-"
