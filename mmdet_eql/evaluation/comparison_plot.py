"""A figure of result files side by side: AP by frequency group, and what errors cost there.

Needs matplotlib, which evaluation else does without.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmdet_eql.evaluation.error_kinds import KINDS
from mmdet_eql.evaluation.file_evaluation import FileEvaluation
from mmdet_eql.utils.errors import UserError

_METRICS = ("AP", "APr", "APc", "APf")


def plot_files(files: Sequence[FileEvaluation], path: str | os.PathLike) -> None:
    """Write a PNG with the AP metrics of files, their 95 % intervals, and their errors, if known.

    Raises:
        UserError: If the file cannot be written, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure

        from mmdet_eql.utils.figure_file import RUN_COLOURS, save_figure
    except ImportError:
        raise UserError(
            f"{path}: matplotlib, which draws it, is not installed; install it by `pip install "
            "matplotlib`, or leave out --plot."
        ) from None
    names = [Path(file.results).name for file in files]
    if len(set(names)) < len(names):
        names = [file.results for file in files]
    colours = [RUN_COLOURS[index % len(RUN_COLOURS)] for index in range(len(files))]
    groups = [name for name in _METRICS if files[0].metrics.get(name, -1) >= 0]
    with_errors = files[0].errors is not None
    rows = 1 + len(groups) if with_errors else 1
    figure = Figure(figsize=(8, 1.2 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    width = 0.8 / len(files)
    for index, file in enumerate(files):
        shift = (index - (len(files) - 1) / 2) * width
        look = dict(width=width, color=colours[index], label=names[index])
        heights = 100 * np.array([file.metrics[name] for name in groups])
        bars = panels[0].bar(np.arange(len(groups)) + shift, heights, **look)
        panels[0].bar_label(bars, fmt="%.1f", label_type="center", color="w", fontsize=8)
        if file.intervals is not None:
            ends = [file.intervals[name] or (np.nan, np.nan) for name in groups]
            ends = 100 * np.array(ends).T
            panels[0].errorbar(
                np.arange(len(groups)) + shift,
                heights,
                np.abs(ends - heights),
                fmt="none",
                ecolor="0.2",
                capsize=3,
            )
        for panel, name in zip(panels[1:], groups, strict=False):
            costs = [100 * file.errors[kind][name] for kind in KINDS]
            panel.bar(np.arange(len(KINDS)) + shift, costs, **look)
    panels[0].set_xticks(range(len(groups)), groups)
    panels[0].set_ylabel("%")
    over_images = ", 95 % intervals over images" if files[0].intervals is not None else ""
    panels[0].set_title(f"AP by frequency group{over_images}")
    for panel, name in zip(panels[1:], groups, strict=False):
        panel.set_xticks(range(len(KINDS)), KINDS)
        panel.set_ylabel("points")
        panel.set_title(f"AP50{name[2:]} lost by each kind of error")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    save_figure(figure, path)
