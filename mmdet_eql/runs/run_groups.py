"""Runs that differ in their seed alone, taken together and compared with a baseline.

Glossary:
    n: number of runs (seeds) of a group.
    std: standard deviation over the runs, with n - 1 in the denominator.
    difference: mean of a group minus mean of the baseline.
"""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from mmdet_eql.runs.image_bins import BY_IMAGES
from mmdet_eql.runs.planning import MARKER
from mmdet_eql.runs.run_record import RESULT_NAME, RunRecord, load_record
from mmdet_eql.utils.errors import UserError

#: Figures of each kind in the order of their columns; "AP50" and its like are in no short table.
FIGURES = {
    "bbox": ("AP", "AP50", "AP75", "APr", "APc", "APf"),
    "segm": ("AP", "AP50", "AP75", "APr", "APc", "APf"),
    "accuracy": ("top1", "top5", "many", "medium", "few"),
}
CONFIDENCE = 0.95
TESTS = ("welch", "paired")


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs of one experiment.

    Args:
        label (str): Its name in tables, unique in a comparison.
        records (tuple[RunRecord, ...]): One run per seed, by increasing seed.
    """

    label: str
    records: tuple[RunRecord, ...]

    def values(self, kind: str, figure: str) -> np.ndarray:
        """A figure of each run as a fraction, shape (n,), NaN where it is not known."""
        found = [record.figures.get(kind, {}).get(figure, math.nan) for record in self.records]
        return np.array(found, dtype=np.float64)

    def category_values(self, kind: str, categories: Sequence[str]) -> np.ndarray:
        """The figure of each category, mean over the runs, shape (C,), NaN where not known."""
        of_runs = [
            [record.category_figures.get(kind, {}).get(name, math.nan) for name in categories]
            for record in self.records
        ]
        with warnings.catch_warnings():
            # All runs may lack a category.
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.nanmean(np.array(of_runs, dtype=np.float64), axis=0)


@dataclass(frozen=True)
class Difference:
    """A group minus the baseline in one figure.

    Args:
        mean (float): Difference of the means, a fraction.
        low (float): Lower end of its confidence interval; NaN if it is not known.
        high (float): Upper end.
        p (float): Two-sided p-value of no difference; NaN if it is not known.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def mark(self) -> str:
        """``"**"`` for p < 0.01, ``"*"`` for p < 0.05, else nothing."""
        return "**" if self.p < 0.01 else "*" if self.p < 0.05 else ""


def load_records(paths: Iterable[str | os.PathLike]) -> list[RunRecord]:
    """Read runs.

    Args:
        paths (Iterable[str | os.PathLike]): Of each a work_dir, a ``result.json`` under any name,
            or a folder of either kind, such as a sweep's. A run that is given twice counts once.

    Returns:
        list[RunRecord]: The runs, in their order; those of a folder by name.

    Raises:
        UserError: If a path is none of these.
    """
    records: dict[str, RunRecord] = {}
    for path in map(Path, paths):
        for found in _runs_at(path):
            record = load_record(found)
            records.setdefault(record.identity, record)
    return list(records.values())


def unfinished_runs(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Runs of sweeps that are not done, and so not among what :func:`load_records` finds.

    Args:
        paths (Iterable[str | os.PathLike]): As for :func:`load_records`.

    Returns:
        list[Path]: Their folders.
    """
    begun = (marker.parent for path in map(Path, paths) for marker in path.glob(f"*/{MARKER}"))
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
    """Put runs together that differ in their seed alone.

    Args:
        records (Sequence[RunRecord]): Runs of detectors, or of classifiers.

    Returns:
        list[RunGroup]: The groups in the order of their first runs.

    Raises:
        UserError: If there are none.
    """
    if not records:
        raise UserError("no runs to compare; give their work_dirs.")
    by_experiment: dict[str, list[RunRecord]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment, []).append(record)
    labels: dict[str, str] = {}
    for experiment, members in by_experiment.items():
        own = {record.label for record in members}
        label = own.pop() if len(own) == 1 else members[0].config
        taken = label in labels.values()
        labels[experiment] = f"{label} ({experiment[:6]})" if taken else label

    def seed(record: RunRecord) -> tuple:
        return record.seed is None, record.seed or 0, record.name

    return [
        RunGroup(labels[experiment], tuple(sorted(members, key=seed)))
        for experiment, members in by_experiment.items()
    ]


def kinds_of(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """The figures that some run has, by kind, in the order of their columns; those of
    :mod:`~mmdet_eql.runs.image_bins` last."""
    found = {}
    for kind, figures in FIGURES.items():
        known = {name for g in groups for r in g.records for name in r.figures.get(kind, {})}
        if known:
            found[kind] = [figure for figure in figures if figure in known]
    binned = {
        kind: list(figures)
        for group in groups
        for record in group.records
        for kind, figures in record.figures.items()
        if kind.endswith(BY_IMAGES)
    }
    return found | dict(sorted(binned.items()))


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean, and standard deviation over the runs (NaN of a single one).

    Args:
        values (np.ndarray): One figure of each run, shape (n,).

    Returns:
        tuple[float, float]: Both NaN if a run lacks the figure.
    """
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def compare(group: RunGroup, baseline: RunGroup, kind: str, figure: str, test: str) -> Difference:
    """Compare a figure of a group with that of the baseline.

    Args:
        group (RunGroup): Its runs.
        baseline (RunGroup): Those of the baseline.
        kind (str): ``"bbox"``, ``"segm"`` or ``"accuracy"``.
        figure (str): Such as ``"APr"``.
        test (str): ``"welch"``: Welch's t-test, which supposes neither equal variances nor equally
            many runs. ``"paired"``: the t-test of the differences between runs of the same seed,
            which share data order and initialisation.

    Returns:
        Difference: With a 95 % confidence interval, by the same test. Without one, and without a
        p-value, if there are fewer than two runs or no variance at all.

    Raises:
        UserError: If a paired test is asked for and the seeds are not the same.
    """
    ours, theirs = group.values(kind, figure), baseline.values(kind, figure)
    unknown = math.nan, math.nan, math.nan
    if test == "paired":
        seeds = [[record.seed for record in each.records] for each in (group, baseline)]
        if seeds[0] != seeds[1] or None in seeds[0] or len(set(seeds[0])) != len(seeds[0]):
            raise UserError(
                f"a paired test needs runs of the same seeds, but {group.label!r} has {seeds[0]} "
                f"and {baseline.label!r} {seeds[1]}; take Welch's test."
            )
        spread = (ours - theirs).std()
    else:
        spread = max(ours.std(), theirs.std())
    difference = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2 or not spread > 0:
        return Difference(difference, *unknown)
    with warnings.catch_warnings():
        # Runs of one of the groups may all have the same figure, such as 0.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        if test == "paired":
            result = stats.ttest_rel(ours, theirs)
        else:
            result = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(difference, float(interval.low), float(interval.high), float(result.pvalue))
