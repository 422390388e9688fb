"""Groups of runs as plots: metrics, categories over frequency, gains, learning curves.

``kind`` is ``"bbox"``, ``"segm"`` or ``"accuracy"``. Plots are SVG elements, None where no group
has the metrics.
"""

import io
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmdet_eql.frequency import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from mmdet_eql.runs.groups import TITLES, RunGroup, kinds_of
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure

_COLOURS = (*RUN_COLOURS, "#000000", "#888888")
_MARKERS = (*RUN_MARKERS, "X", "*", "<", ">")
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
#: The metrics of the first plot; AP50 and the others are in the table.
_SHOWN = ("AP", "APr", "APc", "APf", "top1", "many", "medium", "few")
#: Categories that a point of the mean line stands for, at least.
_CATEGORIES_PER_POINT = 7
#: Where a category without training images is drawn on the logarithmic axis.
_NO_IMAGES = 0.5
_CategoryValues = dict[int, tuple[str, np.ndarray]]


def plot_metrics(groups: Sequence[RunGroup], kind: str) -> str:
    """Plot mean, standard deviation and single runs of each group."""
    return _svg(lambda axes: _draw_metrics(axes, groups, kind), len(groups))


def plot_categories(
    groups: Sequence[RunGroup], kind: str, baseline: RunGroup | None = None
) -> str | None:
    """Plot each category over its training images, and means over similar frequencies.

    With a baseline, the differences of the other groups to it.
    """
    image_count = image_count_of(groups)
    values, label = _category_values(groups, kind, image_count), f"{TITLES[kind]} (%)"
    if baseline is not None:
        base = baseline.category_values(kind, list(image_count))
        label = f"{TITLES[kind]} minus {baseline.label} (points)"
        values = {
            index: (name, found - base)
            for index, (name, found) in values.items()
            if groups[index] is not baseline and not np.isnan(base).all()
        }
    if not values:
        return None
    return _svg(lambda axes: _draw_over_frequency(axes, values, image_count, label), len(values))


def plot_learning_curves(groups: Sequence[RunGroup], kind: str, metric: str) -> str | None:
    """Plot a metric, such as ``"APr"``, over the training: mean and standard deviation of the runs.

    None if no group was validated more than once.
    """
    curves = {}
    for index, group in enumerate(groups):
        at_step: dict[int, list[float]] = {}
        for record in group.records:
            for step, metrics in record.learning_curve:
                value = metrics.get(kind, {}).get(metric, math.nan)
                if not math.isnan(value):
                    at_step.setdefault(step, []).append(100 * value)
        # Steps that only some runs have would make the mean jump.
        steps = [step for step in sorted(at_step) if len(at_step[step]) == len(group.records)]
        if len(steps) > 1:
            curves[index] = steps, np.array([at_step[step] for step in steps])

    def draw(axes: Axes) -> None:
        for index, (steps, values) in curves.items():
            mean, std, look = values.mean(axis=1), _std(values), _look(index)
            ends = mean - std, mean + std
            axes.fill_between(steps, *ends, color=look["color"], alpha=0.15, lw=0)
            axes.plot(steps, mean, label=groups[index].label, markersize=4, **look)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("iterations or epochs, as logged")
        axes.set_ylabel(f"{TITLES[kind]}: {metric} (%)")
        axes.grid(axis="y", alpha=0.25)

    return _svg(draw, len(curves)) if curves else None


def save_overview(groups: Sequence[RunGroup], path: str | os.PathLike, title: str = "") -> None:
    """Write a PNG with the metrics and the categories over frequency of each kind.

    Raises:
        UserError: If there are no metrics of categories, or the file cannot be written.
    """
    image_count = image_count_of(groups)
    values = {kind: _category_values(groups, kind, image_count) for kind in kinds_of(groups)}
    values = {kind: found for kind, found in values.items() if found}
    if not values:
        raise UserError(
            f"{groups[0].records[0].name}: was evaluated without the metric of each category; set "
            "val_evaluator.classwise=True in the config."
        )
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(12, 0.6 + 4 * len(values)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(values), 2, squeeze=False, width_ratios=(1, 1.7))
        for (left, right), (kind, found) in zip(grid, values.items(), strict=True):
            _draw_metrics(left, groups, kind)
            left.legend(frameon=False)
            _draw_over_frequency(right, found, image_count, f"{TITLES[kind]} (%)")
        figure.suptitle(title)
        save_figure(figure, path, dpi=120)


def image_count_of(groups: Sequence[RunGroup]) -> dict[str, int]:
    """Return the training images of each category, from the first run that knows them."""
    records = (record for group in groups for record in group.records)
    return next((record.image_count for record in records if record.image_count), {})


def mean_over_frequency(image_count: np.ndarray, ap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the AP, shape (C,), of categories of similar frequency N_j, shape (C,).

    Categories are taken in order of their counts, at least seven to a point while they last. Those
    of equal count stay together, no point mixes rare, common and frequent ones, NaN is left out.
    Returns geometric mean of the counts and mean AP of each point by increasing count, in float64.
    """
    known = ~np.isnan(ap)
    image_count, ap = image_count[known], ap[known]
    edges = itertools.pairwise((-1, RARE_MAX_IMAGES, COMMON_MAX_IMAGES, np.inf))
    points = [members for low, high in edges for members in _bins(image_count, low, high)]
    x = [np.exp(np.log(_on_log_axis(image_count[members])).mean()) for members in points]
    return np.array(x), np.array([ap[members].mean() for members in points])


def _bins(image_count: np.ndarray, low: float, high: float) -> list[np.ndarray]:
    """Indices of the categories of each point, of those with low < count <= high."""
    bins: list[np.ndarray] = []
    for count in np.unique(image_count[(image_count > low) & (image_count <= high)]):
        members = np.flatnonzero(image_count == count)
        if bins and len(bins[-1]) < _CATEGORIES_PER_POINT:
            bins[-1] = np.append(bins[-1], members)
        else:
            bins.append(members)
    # A few left over would make a noisy point.
    if len(bins) > 1 and len(bins[-1]) < _CATEGORIES_PER_POINT / 2:
        bins[-2:] = [np.append(*bins[-2:])]
    return bins


def _category_values(
    groups: Sequence[RunGroup], kind: str, image_count: Mapping[str, int]
) -> _CategoryValues:
    """Label and metrics of the categories of each group that has them, by index (its colour)."""
    names = list(image_count)
    found = [(group.label, group.category_values(kind, names)) for group in groups]
    return {index: item for index, item in enumerate(found) if not np.isnan(item[1]).all()}


def _draw_metrics(axes: Axes, groups: Sequence[RunGroup], kind: str) -> None:
    names = [name for name in kinds_of(groups)[kind] if name in _SHOWN]
    shown = [n for n in names if not all(np.isnan(g.values(kind, n)).all() for g in groups)]
    for index, group in enumerate(groups):
        x = np.arange(len(shown)) + _offset(index, len(groups), 0.75)
        values = np.array([100 * group.values(kind, name) for name in shown])
        values = values.reshape(len(shown), len(group.records))
        look = dict(_look(index), linestyle="none", capsize=2, markersize=5)
        single = np.repeat(x, values.shape[1])
        axes.plot(single, values.ravel(), ".", color=look["color"], alpha=0.3)
        axes.errorbar(x, values.mean(axis=1), _std(values), label=group.label, **look)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylabel(f"{TITLES[kind]} (%)")
    axes.grid(axis="y", alpha=0.25)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _draw_over_frequency(
    axes: Axes, values: _CategoryValues, image_count: Mapping[str, int], label: str
) -> None:
    counts = np.array(list(image_count.values()))
    for index, (name, found) in values.items():
        if len(values) <= _SCATTERED:
            # Rare categories share a handful of counts: groups side by side hide none.
            x = _on_log_axis(counts) * 1.05 ** _offset(index, max(values) + 1, max(values) + 1)
            axes.scatter(x, 100 * found, s=12, alpha=0.3, linewidths=0, **_look(index))
        x, mean = mean_over_frequency(counts, found)
        axes.plot(x, 100 * mean, markersize=5, label=name, zorder=3, **_look(index))
    axes.set_xscale("log")
    axes.margins(y=0.12)
    _label_frequency_axis(axes, bool(counts.min() == 0))
    if axes.get_ylim()[0] < 0:
        axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.25)


def _label_frequency_axis(axes: Axes, with_zero: bool) -> None:
    """Name the frequency groups on a logarithmic axis of training images, and its ticks."""
    low, high = axes.set_xlim(axes.get_xlim())
    # Halfway between the counts that the cut lies between.
    cuts = (RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5)
    edges = [low, *(min(max(cut, low), high) for cut in cuts), high]
    for cut in cuts:
        axes.axvline(cut, color="0.45", linestyle=":", linewidth=1)
    for name, left, right in zip(GROUP_NAMES.values(), edges, edges[1:], strict=False):
        if right > 1.3 * left:
            look = dict(ha="center", va="top", color="0.35", fontsize=9)
            axes.text(np.sqrt(left * right), 1, name, transform=axes.get_xaxis_transform(), **look)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high]
    ticks += [tick for tick in 10 ** np.arange(4, 8) if tick <= high]
    zero = [_NO_IMAGES] if with_zero else []
    axes.set_xticks(zero + ticks, ["0"] * len(zero) + [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training images that contain the category")


def _on_log_axis(image_count: np.ndarray) -> np.ndarray:
    """Where counts are drawn: as they are, and 0 below 1."""
    return np.where(image_count > 0, image_count, _NO_IMAGES).astype(np.float64)


def _svg(draw: Callable[[Axes], None], entries: int) -> str:
    with matplotlib.rc_context(_STYLE):
        # Room for the legend, two entries to a line.
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] + 0.2 * math.ceil(entries / 2)))
        FigureCanvasSVG(figure)
        figure.set_layout_engine("constrained")
        draw(figure.subplots())
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    # Within a page neither the XML heading nor a size in points is wanted.
    head, rest = text[text.index("<svg") :].split(">", 1)
    words = [word for word in head.split() if not word.startswith(("width=", "height="))]
    return f'{" ".join(words)} role="img">{rest}'


def _std(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the runs, shape (N, n) to (N,); 0 of a single run."""
    return values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))


def _look(index: int) -> dict[str, str]:
    markers, colours = _MARKERS, _COLOURS
    return {"color": colours[index % len(colours)], "marker": markers[index % len(markers)]}


def _offset(index: int, number: int, width: float) -> float:
    return ((index + 0.5) / number - 0.5) * width
