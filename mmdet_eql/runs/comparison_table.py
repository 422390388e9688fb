"""Several runs in one table, for the terminal and for Markdown alike."""

import math
from collections.abc import Mapping, Sequence

from mmdet_eql.runs.run_results import RunResult

#: Columns of each kind: AP over all, rare, common and frequent categories.
COLUMNS = ("AP", "APr", "APc", "APf")
#: Kinds of AP in the order of their columns, and what readers call them.
KINDS = {"bbox": "box", "segm": "mask"}

_NONE = "-"


def format_table(
    runs: Mapping[str, RunResult], difference: tuple[str, str] | None = None, title: str = ""
) -> str:
    """Lay out box and mask AP of runs as a Markdown table.

    Args:
        runs (Mapping[str, RunResult]): Runs by their names in the table.
        difference (tuple[str, str], optional): Names of two runs; a last row gives the figures of
            the first minus those of the second.
        title (str): Heading of the column of names.

    Returns:
        str: The table: AP in percent with one decimal, and a dash where there is no ground truth.
        Kinds of AP that no run has are left out.

    Example:
        >>> from pathlib import Path
        >>> of = lambda ap: {"bbox": {"AP": ap, "APr": float("nan"), "APc": ap, "APf": ap}}
        >>> runs = {n: RunResult(Path(), Path(), of(ap), {}) for n, ap in (("a", 0.2), ("b", 0.3))}
        >>> print(format_table(runs, difference=("b", "a")))
        |           | box AP | APr |   APc |   APf |
        |:----------|-------:|----:|------:|------:|
        | a         |   20.0 |   - |  20.0 |  20.0 |
        | b         |   30.0 |   - |  30.0 |  30.0 |
        | b minus a |  +10.0 |   - | +10.0 | +10.0 |
    """
    kinds = [kind for kind in KINDS if any(kind in run.figures for run in runs.values())]
    cells = [(kind, column) for kind in kinds for column in COLUMNS]
    values = {name: [_figure(run, *cell) for cell in cells] for name, run in runs.items()}

    rows = [[title, *(f"{KINDS[kind]} AP" if col == "AP" else col for kind, col in cells)]]
    rows += [[name, *(_percent(value) for value in of_run)] for name, of_run in values.items()]
    if difference is not None:
        first, second = difference
        deltas = [_shown(a) - _shown(b) for a, b in zip(values[first], values[second], strict=True)]
        rows.append([f"{first} minus {second}", *(_percent(delta, sign=True) for delta in deltas)])
    return markdown_table(rows)


def _figure(run: RunResult, kind: str, column: str) -> float:
    return run.figures.get(kind, {}).get(column, math.nan)


def _percent(fraction: float, sign: bool = False) -> str:
    if math.isnan(fraction):
        return _NONE
    # Adding zero turns the -0.0 that rounding can give into 0.0.
    percent = 100 * _shown(fraction) + 0.0
    return f"{percent:+.1f}" if sign else f"{percent:.1f}"


def _shown(fraction: float) -> float:
    """The fraction as the table shows it, so that differences agree with their rows."""
    return round(fraction, 3)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells so that the table also reads well as plain text.

    Args:
        rows (Sequence[Sequence[str]]): The heading and the rows, of the same length; the first
            column is aligned to the left, the others to the right.

    Returns:
        str: A Markdown table.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for index, (name, *cells) in enumerate(rows):
        padded = [name.ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("| " + " | ".join(padded) + " |")
        if index == 0:
            rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
            lines.append("|" + "|".join(rule) + "|")
    return "\n".join(lines)
