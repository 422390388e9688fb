"""What runs gain over others, with 95 % intervals over the validation images.

Another set of images would have other metrics, however many seeds were trained; see
:mod:`mmdet_eql.evaluation.bootstrap`. A group of runs that differ in their seed alone has the mean
of their AP.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from mmdet_eql.evaluation.bootstrap import NUM_DRAWS, intervals, resample_metrics
from mmdet_eql.evaluation.columns import LVISGroundTruth, read_ground_truth
from mmdet_eql.evaluation.lvis_evaluation import MAX_DETECTIONS, evaluate_detections
from mmdet_eql.evaluation.lvis_results import read_results
from mmdet_eql.evaluation.protocol import count_groups
from mmdet_eql.utils.markdown import markdown_table


def gain_table(
    ann_file: str,
    result_files: Mapping[str, Sequence[str | os.PathLike]],
    number: int = NUM_DRAWS,
    train_ann_file: str | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> str:
    """Format what each group of runs gains in box AP over the first group as Markdown.

    Args:
        ann_file (str): Annotation file in LVIS or COCO format.
        result_files (Mapping[str, Sequence[str | os.PathLike]]): Result files of the runs of each
            group by its name.
        number (int): Draws of images.
        train_ann_file (str, optional): Training annotations that the groups go by.
        max_detections (int): Detections of an image that count.

    Raises:
        UserError: If a file cannot be used.
    """
    truth, means = count_groups(read_ground_truth(ann_file), train_ann_file, ann_file), {}
    for name, paths in result_files.items():
        runs = [_metric_and_draws(truth, str(path), number, max_detections) for path in paths]
        means[name] = {metric: np.mean([run[metric] for run in runs], axis=0) for metric in runs[0]}
    baseline, *others = means
    rows = [[f"box AP minus {baseline}, over images", *means[baseline]]]
    for name in others:
        gains = {metric: of - means[baseline][metric] for metric, of in means[name].items()}
        ends = intervals(
            {metric: gain[1:] for metric, gain in gains.items()},
            {metric: float(gain[0]) for metric, gain in gains.items()},
        )
        rows.append([name, *(_cell(gain[0], ends[metric]) for metric, gain in gains.items())])
    return (
        f"{markdown_table(rows)}\n\nDifferences in points of the means over the runs, "
        f"[95% interval] over {number:,} draws of the {len(truth.image_ids):,} validation images."
    )


def _metric_and_draws(
    truth: LVISGroundTruth, path: str, number: int, max_detections: int
) -> dict[str, np.ndarray]:
    """Each metric of a result file, followed by its value on each draw, shape (1 + B,)."""
    given = truth, read_results(path, truth, "bbox"), "bbox"
    metrics = evaluate_detections(*given, max_detections=max_detections).metrics()
    draws = resample_metrics(*given, number, max_detections=max_detections)
    return {name: np.append(metrics[name], values) for name, values in draws.items()}


def _cell(value: float, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "-"
    low, high = (100 * end for end in ends)
    return f"{100 * value:+.1f} [{low:+.1f}, {high:+.1f}]"
