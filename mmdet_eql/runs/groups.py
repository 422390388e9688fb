"""Runs that differ in their seed alone, taken together; categories in bins by training images."""

import contextlib
import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdet_eql.runs.planning import MARKER_NAME, RESULT_NAME
from mmdet_eql.runs.records import RunRecord, load_record
from mmdet_eql.utils.errors import UserError

#: Titles of the kinds of metrics for readers, in their order.
TITLES = {
    iou_type + limit: f"{title} {name}"
    for iou_type, title in {"bbox": "box", "segm": "mask", "boundary": "boundary"}.items()
    for limit, name in {"": "AP", "_fixed": "Fixed AP", "_pooled": "pooled AP"}.items()
}
TITLES["accuracy"] = "accuracy"
#: Metrics of each kind in the order of their columns.
METRICS = dict.fromkeys(TITLES, ("AP", "AP50", "AP75", "APr", "APc", "APf"))
METRICS["accuracy"] = ("top1", "top5", "many", "medium", "few")
#: Appended to the name of a kind, such as "bbox", for metrics of bins by training images.
BY_IMAGES = " by images"
TITLES |= {kind + BY_IMAGES: f"{title} by training images" for kind, title in TITLES.items()}


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs of one experiment, one per seed, by increasing seed; ``label`` is unique in tables."""

    label: str
    records: tuple[RunRecord, ...]

    def values(self, kind: str, metric: str) -> np.ndarray:
        """Return a metric of each run as a fraction, shape (n,), NaN where it is unknown."""
        found = [record.figures.get(kind, {}).get(metric, math.nan) for record in self.records]
        return np.array(found, dtype=np.float64)

    def category_values(self, kind: str, categories: Sequence[str]) -> np.ndarray:
        """Return the metric of each category, mean over the runs, shape (C,), NaN if unknown."""
        known = [record.category_figures.get(kind, {}) for record in self.records]
        of_runs = [[run.get(name, math.nan) for name in categories] for run in known]
        with warnings.catch_warnings():
            # All runs may lack a category.
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.nanmean(np.array(of_runs, dtype=np.float64), axis=0)


def load_records(paths: Iterable[str | os.PathLike]) -> list[RunRecord]:
    """Read runs, in their order; those of a folder by name. A run given twice counts once, with a
    warning if its metrics are not the same.

    Args:
        paths (Iterable[str | os.PathLike]): Each a work_dir, a ``result.json`` under any name, or a
            folder of either kind, such as a sweep's; a UserError if it is none of these.
    """
    records: dict[str, RunRecord] = {}
    for path in map(Path, paths):
        for found in _runs_at(path):
            record = load_record(found)
            first = records.setdefault(record.identity, record)
            if repr(first.figures) != repr(record.figures):
                warnings.warn(
                    f"{found}: is left out, since {first.name}, which comes before it, is the same "
                    "run of a sweep with other metrics; give one of them.",
                    stacklevel=2,
                )
    return list(records.values())


def load_groups(
    paths: Iterable[str | os.PathLike], bounds: Sequence[int] | None = None
) -> list[RunGroup]:
    """Read runs (:func:`load_records`) and group them (:func:`group_runs`); with ``bounds``, they
    have metrics of categories in bins, too (:func:`with_image_bins`)."""
    with contextlib.redirect_stdout(None):  # counting training sets prints, too
        records = load_records(paths)
        if bounds:
            records = [with_image_bins(record, bounds) for record in records]
        return group_runs(records)


def unfinished_runs(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Return the folders of sweep runs that are not done, and so not in :func:`load_records`."""
    begun = (marker.parent for path in map(Path, paths) for marker in path.glob(f"*/{MARKER_NAME}"))
    return sorted(folder for folder in begun if not (folder / RESULT_NAME).is_file())


def _runs_at(path: Path) -> list[Path]:
    if not path.is_dir() or (path / RESULT_NAME).is_file() or list(path.glob("*/vis_data")):
        return [path]
    inner = [item.parent for item in path.glob(f"*/{RESULT_NAME}")]
    inner += [item for item in path.glob("*.json") if item.is_file()]
    if not inner:
        raise UserError(
            f"{path}: holds neither a run nor a folder with a {RESULT_NAME}; give the work_dir of "
            "a run or of a sweep."
        )
    return sorted(inner)


def group_runs(records: Sequence[RunRecord]) -> list[RunGroup]:
    """Group runs that differ in their seed alone, in the order of their first runs.

    Warnings name runs that were evaluated otherwise or began from weights that have changed, groups
    whose training sets have other counts, and runs of a group that have the same seed, or differ in
    what no config shows. Raises a UserError if there are none.
    """
    if not records:
        raise UserError("no runs to compare; give their work_dirs.")
    # Records of earlier versions have no digest.
    key = "evaluation" if all(record.evaluation for record in records) else "evaluated_on"
    evaluated = {getattr(record, key): record for record in records if getattr(record, key)}
    if len(evaluated) > 1:
        named = (f"{record.name} on {record.evaluated_on}" for record in evaluated.values())
        warnings.warn(
            "not all runs were evaluated on the same annotations with the same iou_thrs and "
            f"max_detections, without which metrics cannot be compared: {', '.join(named)}.",
            stacklevel=2,
        )
    by_experiment: dict[str, list[RunRecord]] = {}
    weights: dict[str, dict[str, str]] = {}
    for record in records:
        if path_and_digest := record.training.get("begun_from"):
            weights.setdefault(path_and_digest[0], {})[path_and_digest[1]] = record.name
        by_experiment.setdefault(record.experiment, []).append(record)
    groups: list[RunGroup] = []
    for experiment, members in by_experiment.items():
        own = {record.label for record in members}
        label = own.pop() if len(own) == 1 else members[0].config
        if label in [group.label for group in groups]:
            label = f"{label} ({experiment[:6]})"
        members.sort(key=lambda record: (record.seed is None, record.seed or 0, record.name))
        for one, other in itertools.pairwise(members):
            if difference := _difference(one, other):
                warnings.warn(
                    f"{one.name} and {other.name} are the same experiment by their config, but "
                    f"{difference}, so that their spread is not that of seeds; give one of them.",
                    stacklevel=2,
                )
            if one.seed is not None and one.seed == other.seed:
                warnings.warn(
                    f"{one.name} and {other.name} have the same config and seed, so that their "
                    "spread is not that of seeds; give one of them.",
                    stacklevel=2,
                )
        groups.append(RunGroup(label, tuple(members)))
    for path, names in weights.items():
        if len(names) > 1:
            warnings.warn(
                f"{path}, which {' and '.join(names.values())} began from, has changed between "
                "them.",
                stacklevel=2,
            )
    counts = {frozenset(group.records[0].image_count.items()): group.label for group in groups}
    counts.pop(frozenset(), None)  # unknown
    if len(counts) > 1:
        warnings.warn(
            f"{' and '.join(counts.values())} have training sets of other image counts, so that "
            "bins and plots by training images are of other categories.",
            stacklevel=2,
        )
    return groups


def _difference(one: RunRecord, other: RunRecord) -> str | None:
    """What tells two runs of a group apart besides their seeds, as far as both know it."""
    processes, tested = (
        [record.training.get(key) for record in (one, other)] for key in ("gpus", "tested")
    )
    if None not in processes and processes[0] != processes[1]:
        return f"were trained by {processes[0]} and {processes[1]} processes"
    if tested[0] != tested[1]:
        names = " and ".join(name or "its last checkpoint" for name in tested)
        return f"their metrics are those of {names}"
    counts = one.image_count, other.image_count
    if all(counts) and counts[0] != counts[1]:
        return "the annotation file of their training images has changed between them"
    return None


def kinds_of(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Return the metrics that some run has, by kind, in the order of their columns, bins last."""
    known: dict[str, dict[str, None]] = {}
    for record in (record for group in groups for record in group.records):
        for kind, metrics in record.figures.items():
            known.setdefault(kind, {}).update(dict.fromkeys(metrics))
    both = [kind for kind in METRICS if kind in known]
    found = {kind: [name for name in METRICS[kind] if name in known[kind]] for kind in both}
    binned = {kind: list(names) for kind, names in known.items() if kind.endswith(BY_IMAGES)}
    return found | dict(sorted(binned.items()))


def parse_bounds(text: str) -> list[int]:
    """Parse the upper ends of bins, such as ``"4,10,100"``; raise a UserError if invalid."""
    try:
        bounds = [int(word) for word in text.split(",")]
    except ValueError:
        bounds = []
    if not bounds or bounds[0] < 1 or sorted(set(bounds)) != bounds:
        raise UserError(
            f"--image-bins is {text!r}; give ascending numbers of training images, as in 4,10,100."
        )
    return bounds


def bin_names(bounds: Sequence[int]) -> list[str]:
    """Name the bins with the given upper ends, and the last one, which has none.

    Example:
        >>> bin_names([4, 10, 11])
        ['≤ 4', '5-10', '11', '> 11']
    """
    pairs = itertools.pairwise(bounds)
    between = [str(high) if high == low + 1 else f"{low + 1}-{high}" for low, high in pairs]
    return [f"≤ {bounds[0]}", *between, f"> {bounds[-1]}"]


def with_image_bins(record: RunRecord, bounds: Sequence[int]) -> RunRecord:
    """Add ``"bbox by images"`` and the like to ``figures``: means of the categories of each bin.

    Args:
        record (RunRecord): A run with metrics of categories.
        bounds (Sequence[int]): Upper ends of all bins but the last, in training images. A bin
            without a category that has ground truth has NaN.

    Raises:
        UserError: If the run has no metrics of categories, or their images were not counted.
    """
    if not record.category_figures or not record.image_count:
        raise UserError(
            f"{record.name}: holds no metrics of categories with their training images; validate "
            "with val_evaluator.classwise=True, or leave --image-bins out."
        )
    position = np.searchsorted(bounds, list(record.image_count.values()))
    added = {}
    for kind, of_category in record.category_figures.items():
        values = np.array([of_category.get(name, math.nan) for name in record.image_count], float)
        members = [values[~np.isnan(values) & (position == i)] for i in range(len(bounds) + 1)]
        added[kind + BY_IMAGES] = {
            name: float(inside.mean()) if len(inside) else math.nan
            for name, inside in zip(bin_names(bounds), members, strict=True)
        }
    return dataclasses.replace(record, figures={**record.figures, **added})
