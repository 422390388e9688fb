"""Metrics as tables for the log, in Markdown, CSV and JSON; AP of each category as records."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from terminaltables import AsciiTable

from mmdet_eql.evaluation.columns import LVISGroundTruth
from mmdet_eql.evaluation.file_evaluation import FileEvaluation
from mmdet_eql.evaluation.lvis_evaluation import LVISEvaluation
from mmdet_eql.utils.markdown import markdown_table


def metric_table(evaluations: Mapping[str, LVISEvaluation], protocol: str = "LVIS") -> str:
    """Return AP, AP50 and so on in percent: a table with a row for each evaluation.

    The header names the ``protocol``. A line below explains the dash of a missing metric.
    """
    metrics = {name: evaluation.metrics() for name, evaluation in evaluations.items()}
    items = dict.fromkeys(item for of in metrics.values() for item in of if "@" not in item)
    rows = [[f"{protocol} (%)", *items]]
    for name, values in metrics.items():
        rows.append([name, *(_percent(values.get(item, -1)) for item in items)])
    dash = "\n-: nothing is annotated that this metric could be of"
    return AsciiTable(rows).table + (dash if any("-" in row for row in rows) else "")


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
    records = [
        {**record, "num_annotations": number}
        for record, number in zip(_categories(ground_truth), counts, strict=True)
    ]
    for name, evaluation in evaluations.items():
        for record, of in zip(records, _category_records(evaluation), strict=True):
            record[f"{name}_AP"] = of["AP"]
    return records


def comparison_table(files: Sequence[FileEvaluation]) -> str:
    """Return the AP metrics of result files in percent, in Markdown.

    Each file has a row of AP, and one of Fixed AP, of pooled AP, of the 95 % intervals and of what
    it gains over the first file, if these were asked for.
    """
    rows = []
    for file in files:
        metrics = {name: value for name, value in file.metrics.items() if "@" not in name}
        for kind, prefix in (("AP", ""), ("Fixed AP", "fixed_"), ("pooled AP", "pooled_")):
            cells = {k: _percent(value) for k, value in _of_kind(metrics, prefix).items()}
            if not cells:
                continue
            rows.append((file.results, kind, cells))
            if file.intervals is not None:
                cells = _interval_cells(_of_kind(file.intervals, prefix))
                rows.append((file.results, "95 % interval", cells))
            if file.gain is not None:
                counts = "" if prefix else f" ({file.gain.wins} up, {file.gain.losses} down)"
                gains = _of_kind(file.gain.metrics, prefix).items()
                gains = {name: f"{100 * value:+.2f}" for name, value in gains}
                rows.append((file.results, f"gain over {files[0].results}{counts}", gains))
                cells = _interval_cells(_of_kind(file.gain.intervals, prefix))
                rows.append((file.results, "95 % interval of it", cells))
    items = dict.fromkeys(name for _, _, cells in rows for name in cells)
    lines = [[file, kind, *(cells.get(name, "") for name in items)] for file, kind, cells in rows]
    return markdown_table([["results", "", *items], *lines])


def _of_kind(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Metrics whose names begin with a prefix, without it; for an empty one, those without any."""
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and (prefix or "_" not in name)
    }


def _interval_cells(intervals: Mapping[str, tuple[float, float] | None]) -> dict[str, str]:
    return {
        name: "-" if ends is None else f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}"
        for name, ends in intervals.items()
    }


def error_table(files: Sequence[FileEvaluation]) -> str:
    """Return what each kind of error costs, in points of AP50, in Markdown."""
    first = files[0].errors
    rows = [["results", "error", "number", *("AP50" + name[2:] for name in first["AP50"])]]
    for file in files:
        for kind, of in file.errors.items():
            costs = [
                "-" if math.isnan(of[name]) else f"{100 * of[name]:.2f}" for name in first["AP50"]
            ]
            number = f"{of['number']:,}" if "number" in of else ""
            rows.append([file.results, kind, number, *costs])
    return markdown_table(rows)


def category_comparison(files: Sequence[FileEvaluation]) -> str:
    """Return the AP of each category in percent, in Markdown: a column for each file."""
    first = files[0].evaluation
    groups = first.frequencies if first.frequencies is not None else [""] * len(first.category_ids)
    columns = [file.evaluation.category_ap().tolist() for file in files]
    rows = zip(first.category_ids.tolist(), first.category_names, groups, *columns, strict=True)
    return markdown_table(
        [
            ["id", "category", "frequency", *(f"AP of {file.results}" for file in files)],
            *([str(i), name, str(group), *map(_percent, ap)] for i, name, group, *ap in rows),
        ]
    )


def comparison_json(files: Sequence[FileEvaluation], classwise: bool = False) -> str:
    """Return a JSON list of ``results`` and ``metrics`` of each file.

    Metrics are fractions, -1 without ground truth. After a bootstrap there are ``intervals``, and
    for all but the first file ``gain``, and where they were asked for there are ``errors``, as in
    :class:`FileEvaluation`. With ``classwise`` there are ``categories``: a list of ``id``,
    ``name``, ``frequency`` and ``AP``. These, intervals and errors are null without ground truth.
    """
    content = []
    for file in files:
        content.append({"results": file.results, "metrics": file.metrics})
        if file.intervals is not None:
            content[-1]["intervals"] = file.intervals
        if file.gain is not None:
            content[-1]["gain"] = asdict(file.gain)
        if file.errors is not None:
            content[-1]["errors"] = {
                kind: {name: _or_none(value) for name, value in of.items()}
                for kind, of in file.errors.items()
            }
        if classwise:
            content[-1]["categories"] = _category_records(file.evaluation)
    return json.dumps(content, indent=1) + "\n"


def comparison_csv(files: Sequence[FileEvaluation], classwise: bool = False) -> str:
    """Return CSV with columns ``results``, ``metric`` and ``value``, a fraction or nothing.

    With ``classwise`` there are rows of the metrics ``AP of {category}``, too.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["results", "metric", "value"])
    for file in files:
        rows = [(name, None if value == -1 else value) for name, value in file.metrics.items()]
        for name, ends in (file.intervals or {}).items():
            low, high = ends or (None, None)
            rows += [(f"{name}_low", low), (f"{name}_high", high)]
        if classwise:
            records = _category_records(file.evaluation)
            rows += [(f"AP of {record['name']}", record["AP"]) for record in records]
        writer.writerows((file.results, *row) for row in rows)
    return text.getvalue()


def _category_records(evaluation: LVISEvaluation) -> list[dict]:
    values = evaluation.category_ap().tolist()
    return [
        {**record, "AP": _or_none(ap)}
        for record, ap in zip(_categories(evaluation), values, strict=True)
    ]


def _categories(of: LVISGroundTruth | LVISEvaluation) -> list[dict]:
    """Id, name and, if it is known, frequency of each category."""
    names = of.category_names
    records = [{"id": i, "name": n} for i, n in zip(of.category_ids.tolist(), names, strict=True)]
    if of.frequencies is not None:
        for record, frequency in zip(records, of.frequencies, strict=True):
            record["frequency"] = str(frequency)
    return records


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _percent(fraction: float) -> str:
    """A fraction in percent, or a dash where there is no ground truth."""
    return f"{100 * fraction:.2f}" if fraction >= 0 else "-"
