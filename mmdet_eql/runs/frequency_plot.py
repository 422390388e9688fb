"""AP over the number of training images: per frequency group, and per category."""

import os
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmdet_eql.frequency import COMMON_MAX_IMAGES, RARE_MAX_IMAGES, ClassFrequency
from mmdet_eql.runs.comparison_table import COLUMNS, KINDS
from mmdet_eql.runs.run_results import RunResult
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure

_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo")
_GROUP_NAMES = {"AP": "all", "APr": "rare", "APc": "common", "APf": "frequent"}
#: Categories that a point of the mean line stands for, at least.
_CATEGORIES_PER_POINT = 7
#: Where a category without training images is drawn on the logarithmic axis.
_NO_IMAGES = 0.5


def plot_runs(
    runs: Mapping[str, RunResult],
    class_frequency: ClassFrequency,
    path: str | os.PathLike,
    title: str = "",
) -> None:
    """Draw AP per group and per category of some runs into one PNG.

    There is a row of panels for box AP and one for mask AP, as far as the runs have them.

    Args:
        runs (Mapping[str, RunResult]): One to six runs, by their names in the legend, with the AP
            of each category.
        class_frequency (ClassFrequency): Occurrences in the training set; categories go by name.
        path (str | os.PathLike): PNG file to write; it appears whole or not at all.
        title (str): Heading of the picture.

    Raises:
        UserError: If there are too many runs, a run has no AP per category, or has categories that
            are not in ``class_frequency``.
    """
    if not 1 <= len(runs) <= len(RUN_COLOURS):
        raise UserError(
            f"frequency plot: {len(runs)} runs are given; give between 1 and {len(RUN_COLOURS)}."
        )
    kinds = [kind for kind in KINDS if all(kind in run.category_ap for run in runs.values())]
    if not kinds:
        without = next((run for run in runs.values() if not run.category_ap), None)
        raise UserError(
            f"{without.work_dir}: was evaluated without the AP of each category; evaluate it with "
            "classwise=True in the evaluator of the config."
            if without
            else "frequency plot: no kind of AP is known of all runs; evaluate them by the same "
            "'metric'."
        )

    figure = Figure(figsize=(12, 0.6 + 4 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(kinds), 2, squeeze=False, width_ratios=(1, 1.7))
    with matplotlib.rc_context({"font.size": 10, "hatch.linewidth": 0.6}):
        for (bars, scatter), kind in zip(grid, kinds, strict=True):
            _draw_groups(bars, runs, kind)
            _draw_categories(scatter, runs, kind, class_frequency)
        figure.suptitle(title)
        save_figure(figure, path, dpi=120)


def mean_over_frequency(image_count: np.ndarray, ap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the AP of categories of like frequency.

    Categories are taken in order of their counts, at least seven to a point while they last. Those
    of equal count stay together, and no point mixes rare, common and frequent ones.

    Args:
        image_count (np.ndarray): N_j, shape (C,).
        ap (np.ndarray): AP of each category, shape (C,); NaN is left out.

    Returns:
        tuple[np.ndarray, np.ndarray]: Of each point, the geometric mean of the counts and the mean
        AP: float64 of shape (number of points,), by increasing count.
    """
    known = ~np.isnan(ap)
    image_count, ap = image_count[known], ap[known]
    points = []
    for low, high in ((0, RARE_MAX_IMAGES), (RARE_MAX_IMAGES + 1, COMMON_MAX_IMAGES)):
        points += _bins(image_count, low, high)
    points += _bins(image_count, COMMON_MAX_IMAGES + 1, np.inf)
    x = [np.exp(np.log(on_log_axis(image_count[members])).mean()) for members in points]
    return np.array(x), np.array([ap[members].mean() for members in points])


def _bins(image_count: np.ndarray, low: float, high: float) -> list[np.ndarray]:
    """Indices of the categories of each point within a group."""
    counts = np.unique(image_count[(image_count >= low) & (image_count <= high)])
    bins, current = [], []
    for count in counts:
        current = np.concatenate([current, np.flatnonzero(image_count == count)]).astype(int)
        if len(current) >= _CATEGORIES_PER_POINT:
            bins.append(current)
            current = []
    if len(current):
        # A few left over would make a noisy point.
        if bins and len(current) < _CATEGORIES_PER_POINT / 2:
            current = np.concatenate([bins.pop(), current])
        bins.append(current)
    return bins


def _draw_groups(axes: Axes, runs: Mapping[str, RunResult], kind: str) -> None:
    width = 0.8 / len(runs)
    for index, (name, run) in enumerate(runs.items()):
        values = np.array([run.figures.get(kind, {}).get(column, np.nan) for column in COLUMNS])
        x = np.arange(len(COLUMNS)) + (index - (len(runs) - 1) / 2) * width
        bars = axes.bar(
            x,
            np.nan_to_num(100 * values),
            width * 0.94,
            label=name,
            color=RUN_COLOURS[index],
            hatch=_HATCHES[index],
            edgecolor="white",
            linewidth=0,
        )
        labels = ["-" if np.isnan(value) else f"{100 * value:.1f}" for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=9)
    axes.set_xticks(range(len(COLUMNS)), [_GROUP_NAMES[column] for column in COLUMNS])
    axes.set_ylabel(f"{KINDS[kind]} AP (%)")
    axes.set_title(f"{KINDS[kind]} AP per frequency group")
    axes.margins(y=0.15)
    axes.set_ylim(0, _top(axes))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _draw_categories(
    axes: Axes, runs: Mapping[str, RunResult], kind: str, class_frequency: ClassFrequency
) -> None:
    count_of = dict(
        zip(class_frequency.class_names, class_frequency.image_count.tolist(), strict=True)
    )
    for index, (name, run) in enumerate(runs.items()):
        of_run = run.category_ap[kind]
        unknown = next((category for category in of_run if category not in count_of), None)
        if unknown is not None:
            raise UserError(
                f"{run.path}: has an AP of the category {unknown!r}, which is not in the training "
                "set; give the training set of this run."
            )
        count = np.array([count_of[category] for category in of_run])
        ap = np.array(list(of_run.values()))
        colour = RUN_COLOURS[index]
        axes.scatter(
            on_log_axis(count) * _sidestep(index, len(runs)),
            100 * ap,
            s=22,
            marker=RUN_MARKERS[index],
            color=colour,
            alpha=0.35,
            linewidths=0,
        )
        x, mean = mean_over_frequency(count, ap)
        axes.plot(
            x,
            100 * mean,
            color=colour,
            marker=RUN_MARKERS[index],
            markeredgecolor="white",
            linewidth=2,
            label=name,
            zorder=3,
        )
    axes.set_xscale("log")
    label_frequency_axis(axes, min(count_of.values()) == 0)
    axes.set_ylabel(f"{KINDS[kind]} AP (%)")
    axes.set_title(f"{KINDS[kind]} AP per category, and mean of categories of like frequency")
    axes.margins(y=0.12)
    axes.set_ylim(-0.02 * _top(axes), _top(axes))
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Below the groups' names; no category of a few images has a high AP.
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.95), framealpha=0.8, edgecolor="none")


def _top(axes: Axes) -> float:
    # One percent at least: differences of a hundredth are not to fill the picture.
    return max(axes.get_ylim()[1], 1.0)


def label_frequency_axis(axes: Axes, with_zero: bool) -> None:
    """Name the frequency groups on a logarithmic axis of training images, and its ticks.

    Args:
        axes (Axes): Axes with everything drawn.
        with_zero (bool): Whether there are categories without training images.
    """
    low, high = axes.get_xlim()
    axes.set_xlim(low, high)
    # Halfway between the counts that the cut lies between.
    cuts = (RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5)
    edges = [low, *(min(max(cut, low), high) for cut in cuts), high]
    for cut in cuts:
        axes.axvline(cut, color="0.45", linestyle=":", linewidth=1)
    for name, left, right in zip(("rare", "common", "frequent"), edges, edges[1:], strict=False):
        if right > 1.3 * left:
            axes.annotate(
                name,
                (np.sqrt(left * right), 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                color="0.35",
                fontsize=9,
            )
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high]
    ticks += [tick for tick in 10 ** np.arange(4, 8) if tick <= high]
    zero = [_NO_IMAGES] if with_zero else []
    axes.set_xticks(zero + ticks, ["0"] * len(zero) + [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training images that contain the category")


def on_log_axis(image_count: np.ndarray) -> np.ndarray:
    """Where counts are drawn: as they are, and 0 below 1. Shape as given, float64."""
    return np.where(image_count > 0, image_count, _NO_IMAGES).astype(np.float64)


def _sidestep(index: int, number: int) -> float:
    # Rare categories share a handful of counts: runs side by side do not hide one another.
    return 1.05 ** (index - (number - 1) / 2)
