"""Time over the number of categories, a panel for each part."""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from side_by_side import Point

from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure


def plot_growth(points: Sequence[Point], path: str | os.PathLike) -> None:
    """Draw time over the number of categories, on logarithmic axes, into one PNG.

    Args:
        points (Sequence[Point]): At least one; of at most six names for each part.
        path (str | os.PathLike): PNG file to write; it appears whole or not at all.

    Raises:
        UserError: If the file cannot be written.
    """
    parts = list(dict.fromkeys(point.part for point in points))
    figure = Figure(figsize=(4.2 * len(parts), 3.8), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        of_part = [point for point in points if point.part == part]
        names = sorted({point.name for point in of_part}, key=lambda name: (name != "ours", name))
        for name, colour, marker in zip(names, RUN_COLOURS, RUN_MARKERS, strict=False):
            curve = sorted(
                (point.num_classes, point.seconds) for point in of_part if point.name == name
            )
            axes.plot(*zip(*curve, strict=True), color=colour, marker=marker, label=name)
        numbers = sorted({point.num_classes for point in of_part})
        axes.set(xscale="log", yscale="log", title=part, xlabel="categories")
        axes.xaxis.set_major_locator(FixedLocator(numbers))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel("seconds")
    save_figure(figure, path, dpi=120)
