"""Groups of runs as pictures: figures, categories over frequency, gains, learning curves."""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmdet_eql.runs.comparison_report import TITLES
from mmdet_eql.runs.frequency_plot import (
    label_frequency_axis,
    mean_over_frequency,
    on_log_axis,
)
from mmdet_eql.runs.run_groups import RunGroup

# Okabe and Ito's colours, which stay apart for colour-blind eyes, and grey.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888"),
)
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">")
#: More groups than this are shown by their means alone.
_SCATTERED = 3
#: Inches; small, so that letters can be read when a phone shrinks it.
_SIZE = (5.4, 3.8)
_STYLE = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    # Letters stay letters: smaller, and found by a search.
    "svg.fonttype": "none",
    "svg.hashsalt": "mmdet-eql",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
#: The figures of the first plot; AP50 and its like are in the table.
_SHOWN = ("AP", "APr", "APc", "APf", "top1", "many", "medium", "few")


def plot_figures(groups: Sequence[RunGroup], kind: str, figures: Sequence[str]) -> str:
    """Mean, standard deviation and single runs of each group.

    Args:
        groups (Sequence[RunGroup]): The groups.
        kind (str): ``"bbox"``, ``"segm"`` or ``"accuracy"``.
        figures (Sequence[str]): Figures that are known; the main ones are drawn.

    Returns:
        str: An SVG element.
    """
    shown = [
        name
        for name in figures
        if name in _SHOWN and not all(np.isnan(group.values(kind, name)).all() for group in groups)
    ]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(len(groups))
        for index, group in enumerate(groups):
            x = np.arange(len(shown)) + _offset(index, len(groups), 0.75)
            values = [100 * group.values(kind, name) for name in shown]
            for position, found in zip(x, values, strict=True):
                axes.plot([position] * len(found), found, ".", color=_colour(index), alpha=0.3)
            axes.errorbar(
                x,
                [found.mean() for found in values],
                [found.std(ddof=1) if len(found) > 1 else 0 for found in values],
                fmt=_marker(index),
                color=_colour(index),
                capsize=2,
                markersize=5,
                label=group.label,
            )
        axes.set_xticks(range(len(shown)), shown)
        axes.set_ylabel(f"{TITLES[kind]} (%)")
        axes.grid(axis="y", alpha=0.25)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        return _finish(figure, axes, len(groups))


def plot_categories(
    groups: Sequence[RunGroup], kind: str, image_count: Mapping[str, int]
) -> str | None:
    """The figure of each category over its training images, and means of categories of like
    frequency.

    Args:
        groups (Sequence[RunGroup]): The groups; those without figures of categories are left out.
        kind (str): ``"bbox"``, ``"segm"`` or ``"accuracy"``.
        image_count (Mapping[str, int]): Training images of each category.

    Returns:
        str | None: An SVG element, or None if no group has figures of categories.
    """
    names = list(image_count)
    values = {group.label: group.category_values(kind, names) for group in groups}
    return _plot_over_frequency(values, image_count, f"{TITLES[kind]} (%)")


def plot_gains(
    groups: Sequence[RunGroup], baseline: RunGroup, kind: str, image_count: Mapping[str, int]
) -> str | None:
    """As :func:`plot_categories`, of what each group has more than the baseline."""
    names = list(image_count)
    base = baseline.category_values(kind, names)
    values = {
        group.label: math.nan * base
        if group is baseline
        else group.category_values(kind, names) - base
        for group in groups
    }
    label = f"{TITLES[kind]} minus {baseline.label} (points)"
    return _plot_over_frequency(values, image_count, label)


def plot_learning_curves(groups: Sequence[RunGroup], kind: str, name: str) -> str | None:
    """A figure over the training: mean of the runs, and the standard deviation around it.

    Args:
        groups (Sequence[RunGroup]): The groups.
        kind (str): ``"bbox"``, ``"segm"`` or ``"accuracy"``.
        name (str): The figure.

    Returns:
        str | None: An SVG element, or None if no run was validated more than once.
    """
    curves = {}
    for index, group in enumerate(groups):
        at_step: dict[int, list[float]] = {}
        for record in group.records:
            for step, figures in record.learning_curve:
                value = figures.get(kind, {}).get(name, math.nan)
                if not math.isnan(value):
                    at_step.setdefault(step, []).append(100 * value)
        # Steps that only some runs have would make the mean jump.
        steps = [
            step for step, found in sorted(at_step.items()) if len(found) == len(group.records)
        ]
        if len(steps) > 1:
            curves[index] = steps, [np.array(at_step[step]) for step in steps]
    if not curves:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(len(curves))
        for index, (steps, values) in curves.items():
            mean = np.array([found.mean() for found in values])
            std = np.array([found.std(ddof=1) if len(found) > 1 else 0 for found in values])
            axes.fill_between(steps, mean - std, mean + std, color=_colour(index), alpha=0.15, lw=0)
            axes.plot(
                steps,
                mean,
                color=_colour(index),
                marker=_marker(index),
                markersize=4,
                label=groups[index].label,
            )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("iterations or epochs, as logged")
        axes.set_ylabel(f"{TITLES[kind]}: {name} (%)")
        axes.grid(axis="y", alpha=0.25)
        return _finish(figure, axes, len(curves))


def _plot_over_frequency(
    values: Mapping[str, np.ndarray], image_count: Mapping[str, int], label: str
) -> str | None:
    counts = np.array(list(image_count.values()))
    # Colours go by the place among all groups, so that they are the same in all plots.
    known = {
        index: (name, found)
        for index, (name, found) in enumerate(values.items())
        if not np.isnan(found).all()
    }
    if not known:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new_figure(len(known))
        for index, (name, found) in known.items():
            if len(known) <= _SCATTERED:
                axes.scatter(
                    on_log_axis(counts) * 1.05 ** _offset(index, len(values), len(values)),
                    100 * found,
                    s=12,
                    marker=_marker(index),
                    color=_colour(index),
                    alpha=0.3,
                    linewidths=0,
                )
            x, mean = mean_over_frequency(counts, found)
            axes.plot(
                x,
                100 * mean,
                color=_colour(index),
                marker=_marker(index),
                markersize=5,
                label=name,
                zorder=3,
            )
        axes.set_xscale("log")
        axes.margins(y=0.12)
        label_frequency_axis(axes, bool(counts.min() == 0))
        if axes.get_ylim()[0] < 0:
            axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.25)
        return _finish(figure, axes, len(known))


def _new_figure(entries: int) -> tuple[Figure, Axes]:
    # Room for the legend, two entries to a line.
    figure = Figure(figsize=(_SIZE[0], _SIZE[1] + 0.2 * math.ceil(entries / 2)))
    FigureCanvasSVG(figure)
    figure.set_layout_engine("constrained")
    return figure, figure.subplots()


def _finish(figure: Figure, axes: Axes, entries: int) -> str:
    if entries:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    # Within a page neither the XML heading nor a size in points is wanted.
    svg = text[text.index("<svg") :]
    head, rest = svg.split(">", 1)
    words = [word for word in head.split() if not word.startswith(("width=", "height="))]
    return f'{" ".join(words)} role="img">{rest}'


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _offset(index: int, number: int, width: float) -> float:
    return ((index + 0.5) / number - 0.5) * width
