"""Plot of the positive and negative gradients of each category, and a table of their medians; see
:mod:`mmdet_eql.engine.gradient_file`."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmdet_eql.engine.gradient_file import GradientRecord, group_medians
from mmdet_eql.frequency import GROUP_NAMES
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure
from mmdet_eql.utils.markdown import markdown_table

#: Greatest number of points of the mean line in a group, and least number of categories of a point.
_POINTS_PER_GROUP, _CATEGORIES_PER_POINT = 12, 4
_GROUP_STYLES = {"r": "-", "c": "--", "f": ":"}


def format_ratios(records: Mapping[str, GradientRecord]) -> str:
    """Return the median ratio of each frequency group of runs, by name, as a Markdown table."""
    rows = [["positive / negative gradient, median", *GROUP_NAMES.values()]]
    for name, record in records.items():
        medians = group_medians(record.ratio(), record.class_frequency.group)
        rows.append([name, *(f"{ratio:.3g}" for ratio in medians.values())])
    return markdown_table(rows)


def plot_gradients(records: Mapping[str, GradientRecord], path: str | os.PathLike) -> None:
    """Plot the gradients of some runs as PNG.

    At the top, the ratio of each category, from the most to the least frequent; at the bottom, its
    two parts, and the ratio of each group over the training.

    Args:
        records (Mapping[str, GradientRecord]): One to six runs by their names in the legend, of the
            same training set and quantity.
        path (str | os.PathLike): PNG file to write.

    Raises:
        UserError: If the runs are too many or differ in these, or the file cannot be written.
    """
    if not 1 <= len(records) <= len(RUN_COLOURS):
        raise UserError(
            f"gradient plot: {len(records)} runs are given; give between 1 and {len(RUN_COLOURS)}."
        )
    first = next(iter(records.values()))
    frequency = first.class_frequency
    for name, record in records.items():
        if record.quantity != first.quantity:
            raise UserError(
                f"gradient plot: {name!r} records gradients on {record.quantity}, another run on "
                f"{first.quantity}; record both with the same 'quantity'."
            )
        other = record.class_frequency
        if other.class_names != frequency.class_names or not np.array_equal(
            other.image_count, frequency.image_count
        ):
            raise UserError(
                f"gradient plot: {name!r} was trained on other categories than another run; "
                "compare runs of the same training set."
            )

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplot_mosaic([["ratio", "ratio"], ["parts", "training"]])
    for each in axes.values():
        each.set_yscale("log")
        each.grid(axis="y", alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    order = np.argsort(-frequency.image_count, kind="stable")
    _draw_ratios(axes["ratio"], records, order)
    _draw_parts(axes["parts"], records, order)
    _draw_training(axes["training"], records)
    axes["ratio"].set_ylabel(f"positive / negative gradient on the {first.quantity}")
    axes["parts"].set_ylabel(f"sum of gradient norms on the {first.quantity}")
    _mark_groups(axes["ratio"], frequency.group[order], named=True)
    _mark_groups(axes["parts"], frequency.group[order], named=False)
    save_figure(figure, path, dpi=120)


def _draw_ratios(axes: Axes, records: Mapping[str, GradientRecord], order: np.ndarray) -> None:
    rank = np.arange(1, len(order) + 1)
    for index, (name, record) in enumerate(records.items()):
        ratio = record.ratio()[order]
        drawable = np.isfinite(ratio) & (ratio > 0)
        without = int((ratio == 0).sum())
        style = dict(color=RUN_COLOURS[index], marker=RUN_MARKERS[index])
        axes.scatter(rank[drawable], ratio[drawable], s=14, alpha=0.3, linewidths=0, **style)
        x, mean = _mean_line(ratio, record.class_frequency.group[order])
        note = f" ({without} without positives)" if without else ""
        axes.plot(x, mean, label=name + note, markeredgecolor="white", linewidth=2, **style)
    axes.axhline(1, color="0.45", linewidth=1)
    axes.set_title(
        "Ratio of the gradients of each category, and geometric mean of those of like frequency"
    )
    axes.legend(frameon=False, loc="lower left")
    # Room for the names of the groups above the points.
    axes.margins(y=0.12)


def _draw_parts(axes: Axes, records: Mapping[str, GradientRecord], order: np.ndarray) -> None:
    for index, record in enumerate(records.values()):
        group = record.class_frequency.group[order]
        for sums, line in ((record.positive, "-"), (record.negative, "--")):
            x, mean = _mean_line(sums[-1].sum(axis=0)[order], group)
            axes.plot(x, mean, line, color=RUN_COLOURS[index], linewidth=2)
    axes.set_title("Positive and negative gradients")
    _add_legend(axes, {"positive": "-", "negative": "--"}, loc="lower left")


def _draw_training(axes: Axes, records: Mapping[str, GradientRecord]) -> None:
    for index, record in enumerate(records.values()):
        ratios = record.group_ratio_over_training()
        for letter, line in _GROUP_STYLES.items():
            style = dict(color=RUN_COLOURS[index], marker=RUN_MARKERS[index], markersize=4)
            axes.plot(record.iterations, ratios[letter], line, **style)
    axes.axhline(1, color="0.45", linewidth=1)
    axes.set_xlabel("iteration")
    axes.set_ylabel("ratio of sums since the point before")
    axes.set_title("Ratio of each group over the training")
    # Room for the legend above the lines.
    axes.margins(y=0.25)
    styles = {GROUP_NAMES[letter]: line for letter, line in _GROUP_STYLES.items()}
    _add_legend(axes, styles, loc="upper center", ncols=3)


def _add_legend(axes: Axes, styles: Mapping[str, str], **kwargs) -> None:
    handles = [
        Line2D([], [], color="0.3", linestyle=line, label=label) for label, line in styles.items()
    ]
    axes.legend(handles=handles, frameon=False, **kwargs)


def _mark_groups(axes: Axes, group: np.ndarray, named: bool) -> None:
    """Separate the groups of categories in order of their frequency by lines."""
    axes.set_xlim(0.5, len(group) + 0.5)
    axes.set_xlabel("category, from the most to the least frequent")
    end = 0
    for row, letter in enumerate(reversed(GROUP_NAMES)):
        number = int((group == letter).sum())
        if number and named:
            # The names of two narrow groups must not meet.
            look = dict(ha="center", va="top", color="0.35", fontsize=8)
            place = end + number / 2 + 0.5, 1 - 0.05 * (row % 2)
            name = f"{GROUP_NAMES[letter]} ({number})"
            axes.text(*place, name, transform=axes.get_xaxis_transform(), **look)
        end += number
        if 0 < end < len(group):
            axes.axvline(end + 0.5, color="0.45", linestyle=":", linewidth=1)


def _mean_line(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks and geometric means of neighbours within a group, one per point."""
    x, means = [], []
    for letter in reversed(GROUP_NAMES):
        members = np.flatnonzero((group == letter) & np.isfinite(values) & (values > 0))
        if len(members):
            parts = max(1, min(_POINTS_PER_GROUP, len(members) // _CATEGORIES_PER_POINT))
            for part in np.array_split(members, parts):
                x.append(part.mean() + 1)
                means.append(np.exp(np.log(values[part]).mean()))
    return np.array(x), np.array(means)
