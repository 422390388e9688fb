"""Groups of runs as tables: Markdown, which reads well on the terminal, too, and CSV."""

import csv
import io
import math
from collections.abc import Sequence

from mmdet_eql.runs.groups import TITLES, RunGroup, kinds_of
from mmdet_eql.runs.statistics import CONFIDENCE, TESTS, Difference, compare, mean_and_std
from mmdet_eql.utils.markdown import markdown_table

_NONE = "-"
_CSV_COLUMNS = (
    "label config kind figure n mean std difference ci_low ci_high p images_low images_high "
    "seeds values"
)


def format_report(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """Format means and differences to the baseline, one of the groups, as Markdown.

    For each kind of metrics a table of means and standard deviations in percent, and one of
    differences. ``test`` and errors are as for :func:`~mmdet_eql.runs.statistics.compare`.
    """
    parts = []
    for kind, metrics in kinds_of(groups).items():
        parts.append(markdown_table(mean_rows(groups, kind, metrics)))
        if len(groups) > 1:
            parts.append(markdown_table(difference_rows(groups, baseline, kind, metrics, test)))
    return "\n\n".join([*parts, describe(groups, baseline, test)])


def mean_rows(groups: Sequence[RunGroup], kind: str, metrics: Sequence[str]) -> list[list[str]]:
    """Return heading and rows of a table of means: label, n, ``mean ± std`` in percent.

    Where the runs have intervals over images, a second row has the means of their ends.
    """
    rows = [[f"{TITLES[kind]} (%)", "n", *metrics]]
    for group in groups:
        cells = [_spread(*mean_and_std(group.values(kind, metric))) for metric in metrics]
        rows.append([group.label, str(len(group.records)), *cells])
        ends = [image_interval(group, kind, metric) for metric in metrics]
        if not all(math.isnan(low) for low, _ in ends):
            cells = [_NONE if math.isnan(a) else f"{100 * a:.1f} to {100 * b:.1f}" for a, b in ends]
            rows.append([f"{group.label}, over images", "", *cells])
    return rows


def image_interval(group: RunGroup, kind: str, metric: str) -> tuple[float, float]:
    """Return the ends of the interval over images of a metric, mean over the runs, or NaN.

    Runs have it if their evaluator has ``bootstrap=True``.
    """
    low, high = (group.values(kind, f"{metric}_{end}").mean() for end in ("low", "high"))
    return float(low), float(high)


def difference_rows(
    groups: Sequence[RunGroup], baseline: RunGroup, kind: str, metrics: Sequence[str], test: str
) -> list[list[str]]:
    """Return heading and rows of a table of differences: label, ``difference [interval] mark``."""
    rows = [[f"{TITLES[kind]} minus {baseline.label}", *metrics]]
    for group in groups:
        if group is not baseline:
            found = [compare(group, baseline, kind, metric, test) for metric in metrics]
            rows.append([group.label, *map(_interval, found)])
    return rows


def describe(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """Explain how to read the tables."""
    text = "Mean ± standard deviation over n runs that differ in their seed alone."
    kinds = [(group, kind) for group in groups for kind in kinds_of(groups)]
    if not all(math.isnan(image_interval(*one, "AP")[0]) for one in kinds):
        text += (
            " Over images: the 95 % interval from draws of the images that a run is validated on, "
            "mean of its ends over the runs."
        )
    if len(groups) > 1:
        text += (
            f" Differences to {baseline.label} in points, [{CONFIDENCE:.0%} confidence interval]; "
            f"* p < 0.05, ** p < 0.01, two-sided {TESTS[test]}, not corrected for the number "
            "of comparisons."
        )
    return text


def format_csv(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """Format all metrics as CSV: a line for each group, kind and metric, as unrounded fractions.

    Arguments are as for :func:`format_report`; unknown values are empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS.split())
    for group in groups:
        for kind, metrics in kinds_of(groups).items():
            for metric in metrics:
                values = group.values(kind, metric)
                found = Difference(math.nan)
                if group is not baseline:
                    found = compare(group, baseline, kind, metric, test)
                numbers = *mean_and_std(values), found.mean, found.low, found.high, found.p
                numbers += image_interval(group, kind, metric)
                seeds = " ".join(str(record.seed) for record in group.records)
                known = ["" if math.isnan(number) else repr(number) for number in numbers]
                row = [group.label, group.records[0].config, kind, metric, len(values), *known]
                writer.writerow([*row, seeds, " ".join(repr(float(v)) for v in values)])
    return file.getvalue()


def _spread(mean: float, std: float) -> str:
    if math.isnan(mean):
        return _NONE
    return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _interval(found: Difference) -> str:
    if math.isnan(found.mean):
        return _NONE
    text = f"{_points(found.mean):+.1f}"
    if not math.isnan(found.low):
        text += f" [{_points(found.low):+.1f}, {_points(found.high):+.1f}]"
    return f"{text} {found.mark}".rstrip()


def _points(fraction: float) -> float:
    # Adding zero turns the -0.0 that rounding can give into 0.0.
    return round(100 * fraction, 1) + 0.0
