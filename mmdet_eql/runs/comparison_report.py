"""Groups of runs as tables, for the terminal, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Sequence

from mmdet_eql.runs.comparison_table import KINDS, markdown_table
from mmdet_eql.runs.image_bins import BY_IMAGES
from mmdet_eql.runs.run_groups import (
    CONFIDENCE,
    Difference,
    RunGroup,
    compare,
    kinds_of,
    mean_and_std,
)

#: What readers call the kinds of figures.
TITLES = {**{kind: f"{name} AP" for kind, name in KINDS.items()}, "accuracy": "accuracy"}
TITLES |= {kind + BY_IMAGES: f"{title} by training images" for kind, title in TITLES.items()}
_NONE = "-"
_CSV_COLUMNS = (
    *("label", "config", "kind", "figure", "n", "mean", "std"),
    *("difference", "ci_low", "ci_high", "p", "seeds", "values"),
)
_TEST_NAMES = {
    "welch": "Welch's t-test",
    "paired": "t-test paired by seed",
}


def format_report(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """Tables of means and of differences to the baseline, in Markdown.

    Args:
        groups (Sequence[RunGroup]): The groups, with the baseline.
        baseline (RunGroup): One of them.
        test (str): ``"welch"`` or ``"paired"``.

    Returns:
        str: For each kind of figure a table of means and standard deviations in percent, and one
        of differences, with a sentence on how to read them.

    Raises:
        UserError: As :func:`~mmdet_eql.runs.run_groups.compare`.
    """
    parts = []
    for kind, figures in kinds_of(groups).items():
        parts.append(markdown_table(mean_rows(groups, kind, figures)))
        if len(groups) > 1:
            parts.append(markdown_table(difference_rows(groups, baseline, kind, figures, test)))
    parts.append(describe(groups, baseline, test))
    return "\n\n".join(parts)


def mean_rows(groups: Sequence[RunGroup], kind: str, figures: Sequence[str]) -> list[list[str]]:
    """Heading and rows of a table of means: label, n, ``mean ± std`` in percent."""
    rows = [[f"{TITLES[kind]} (%)", "n", *figures]]
    for group in groups:
        cells = [_spread(*mean_and_std(group.values(kind, figure))) for figure in figures]
        rows.append([group.label, str(len(group.records)), *cells])
    return rows


def difference_rows(
    groups: Sequence[RunGroup],
    baseline: RunGroup,
    kind: str,
    figures: Sequence[str],
    test: str,
) -> list[list[str]]:
    """Heading and rows of a table of differences: label, ``difference [interval] mark``."""
    rows = [[f"{TITLES[kind]} minus {baseline.label}", *figures]]
    for group in groups:
        if group is not baseline:
            found = [compare(group, baseline, kind, figure, test) for figure in figures]
            rows.append([group.label, *map(_interval, found)])
    return rows


def describe(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """How to read the tables, in sentences."""
    text = "Mean ± standard deviation over n runs that differ in their seed alone."
    if len(groups) > 1:
        text += (
            f" Differences to {baseline.label} in points, [{CONFIDENCE:.0%} confidence interval]; "
            f"* p < 0.05, ** p < 0.01, two-sided {_TEST_NAMES[test]}, not corrected for the number "
            "of comparisons."
        )
    return text


def format_csv(groups: Sequence[RunGroup], baseline: RunGroup, test: str) -> str:
    """All figures that the runs have, one line for each group, kind and figure, as fractions.

    Args:
        groups (Sequence[RunGroup]): The groups, with the baseline.
        baseline (RunGroup): One of them.
        test (str): ``"welch"`` or ``"paired"``.

    Returns:
        str: CSV with a heading; what is not known is empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for group in groups:
        for kind, figures in kinds_of(groups).items():
            for figure in figures:
                values = group.values(kind, figure)
                row = [group.label, group.records[0].config, kind, figure, len(values)]
                numbers = list(mean_and_std(values))
                if group is baseline:
                    numbers += [math.nan] * 4
                else:
                    found = compare(group, baseline, kind, figure, test)
                    numbers += [found.mean, found.low, found.high, found.p]
                row += ["" if math.isnan(number) else repr(number) for number in numbers]
                row.append(" ".join(str(record.seed) for record in group.records))
                row.append(" ".join(repr(float(value)) for value in values))
                writer.writerow(row)
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
