"""The picture that motivates the Equalization Loss: who pushes the categories up and down.

See :mod:`mmdet_eql.gradient_record` for what is drawn.
"""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmdet_eql.frequency import GROUP_NAMES
from mmdet_eql.gradient_record import GradientRecord, group_medians
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure

#: Points of the mean line in a group, at most, and categories of a point, at least.
_POINTS_PER_GROUP, _CATEGORIES_PER_POINT = 12, 4
_GROUP_STYLES = {"r": "-", "c": "--", "f": ":"}


def format_ratios(records: Mapping[str, GradientRecord]) -> str:
    """The medians of some runs as a Markdown table.

    Args:
        records (Mapping[str, GradientRecord]): Runs by name.

    Returns:
        str: The table.
    """
    lines = [
        f"| positive / negative gradient, median | {' | '.join(GROUP_NAMES.values())} |",
        "|---|---|---|---|",
    ]
    for name, record in records.items():
        ratios = " | ".join(
            f"{ratio:.3g}"
            for ratio in group_medians(record.ratio(), record.class_frequency.group).values()
        )
        lines.append(f"| {name} | {ratios} |")
    return "\n".join(lines)


def plot_gradients(
    records: Mapping[str, GradientRecord], path: str | os.PathLike, title: str = ""
) -> None:
    """Draw the gradients of some runs into one PNG.

    Above, the ratio of each category, from the most to the least frequent. Below, what it consists
    of, and the ratio of each group over the training.

    Args:
        records (Mapping[str, GradientRecord]): One to six runs by their names in the legend, of the
            same training set and quantity.
        path (str | os.PathLike): PNG file to write; it appears whole or not at all.
        title (str): Heading of the picture.

    Raises:
        UserError: If there are too many runs, or they cannot be compared.
    """
    if not 1 <= len(records) <= len(RUN_COLOURS):
        raise UserError(
            f"gradient plot: {len(records)} runs are given; give between 1 and {len(RUN_COLOURS)}."
        )
    _, first = next(iter(records.items()))
    for name, record in records.items():
        if record.quantity != first.quantity:
            raise UserError(
                f"gradient plot: {name!r} records gradients on {record.quantity}, another run on "
                f"{first.quantity}; record both with the same 'quantity'."
            )
        same = record.class_frequency.class_names == first.class_frequency.class_names
        if (
            not same
            or (record.class_frequency.image_count != first.class_frequency.image_count).any()
        ):
            raise UserError(
                f"gradient plot: {name!r} was trained on other categories than another run; "
                "compare runs of the same training set."
            )

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic([["ratio", "ratio"], ["parts", "training"]])
    for each in axes.values():
        each.set_yscale("log")
        each.grid(axis="y", alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    order = np.argsort(-first.class_frequency.image_count, kind="stable")
    _draw_ratios(axes["ratio"], records, order)
    _draw_parts(axes["parts"], records, order)
    _draw_training(axes["training"], records)
    _mark_groups(axes["ratio"], first.class_frequency.group[order])
    _mark_groups(axes["parts"], first.class_frequency.group[order], named=False)
    figure.suptitle(title)
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
    axes.set_ylabel(f"positive / negative gradient on the {_quantity(records)}")
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
    axes.set_ylabel(f"sum of gradient norms on the {_quantity(records)}")
    axes.set_title("Positive and negative gradients")
    # The colours of the runs are told above.
    handles = [
        Line2D([], [], color="0.3", linestyle=line, label=label)
        for line, label in (("-", "positive"), ("--", "negative"))
    ]
    axes.legend(handles=handles, frameon=False, loc="lower left")


def _draw_training(axes: Axes, records: Mapping[str, GradientRecord]) -> None:
    for index, record in enumerate(records.values()):
        ratios = record.group_ratio_over_training()
        for letter, line in _GROUP_STYLES.items():
            axes.plot(
                record.iterations,
                ratios[letter],
                line,
                color=RUN_COLOURS[index],
                marker=RUN_MARKERS[index],
                markersize=4,
            )
    axes.axhline(1, color="0.45", linewidth=1)
    axes.set_xlabel("iteration")
    axes.set_ylabel("ratio of sums since the point before")
    axes.set_title("Ratio of each group over the training")
    handles = [
        Line2D([], [], color="0.3", linestyle=line, label=GROUP_NAMES[letter])
        for letter, line in _GROUP_STYLES.items()
    ]
    # Room for the legend above the lines.
    axes.margins(y=0.25)
    axes.legend(handles=handles, frameon=False, loc="upper center", ncols=3)


def _quantity(records: Mapping[str, GradientRecord]) -> str:
    return next(iter(records.values())).quantity


def _mark_groups(axes: Axes, group: np.ndarray, named: bool = True) -> None:
    """Lines between the groups, of categories in order of their frequency."""
    axes.set_xlim(0.5, len(group) + 0.5)
    axes.set_xlabel("category, from the most to the least frequent")
    end = rows = 0
    for letter in reversed(GROUP_NAMES):
        number = int((group == letter).sum())
        if number and named:
            # A narrow group has no room for its number, nor left of its middle; the next one's name
            # goes below its own.
            narrow = number < 0.25 * len(group)
            axes.annotate(
                GROUP_NAMES[letter] if narrow else f"{GROUP_NAMES[letter]} ({number})",
                (end + 0.5 if narrow else end + number / 2 + 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2 if narrow else 0, -10 * rows if narrow else 0),
                textcoords="offset points",
                ha="left" if narrow else "center",
                va="top",
                color="0.35",
                fontsize=8,
            )
            rows += narrow
        end += number
        if 0 < end < len(group):
            axes.axvline(end + 0.5, color="0.45", linestyle=":", linewidth=1)


def _mean_line(values: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Geometric means of neighbours within a group: ranks and means of the points."""
    x, means = [], []
    for letter in GROUP_NAMES:
        members = np.flatnonzero((group == letter) & np.isfinite(values) & (values > 0))
        if len(members):
            parts = max(1, min(_POINTS_PER_GROUP, len(members) // _CATEGORIES_PER_POINT))
            for part in np.array_split(members, parts):
                x.append(part.mean() + 1)
                means.append(np.exp(np.log(values[part]).mean()))
    order = np.argsort(x)
    return np.array(x)[order], np.array(means)[order]
