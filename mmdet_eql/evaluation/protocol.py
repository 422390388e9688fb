"""How an annotation file is evaluated: what is said about it, and who is rare."""

from dataclasses import replace

import numpy as np

from mmdet_eql.annotations import read_annotations
from mmdet_eql.annotations.dataset_annotations import DatasetAnnotations
from mmdet_eql.evaluation.columns import LVISGroundTruth
from mmdet_eql.utils.errors import UserError


def count_groups(
    ground_truth: LVISGroundTruth,
    train_ann_file: str | None,
    ann_file: str,
    backend_args: dict | None = None,
) -> LVISGroundTruth:
    """Return the ground truth with groups by the training annotations; as it is without these.

    Raises:
        UserError: If the training set lacks a category of ``ann_file``, or cannot be read.
    """
    if train_ann_file is None:
        return ground_truth
    columns, names = read_annotations(train_ann_file, backend_args), ground_truth.category_names
    unknown = [name for name in names if name not in columns.category_name]
    if unknown:
        raise UserError(
            f"{train_ann_file}: has no category {unknown[0]!r}, which {ann_file} has; give the "
            "annotation file that the model is trained on."
        )
    groups = DatasetAnnotations(columns, names).class_frequency.group
    return replace(ground_truth, frequencies=groups)


def describe_protocol(
    ground_truth: LVISGroundTruth, train_ann_file: str | None = None
) -> str | None:
    """Say which categories count in which images, and what sets the groups; None if as in LVIS."""
    if ground_truth.judged is not None and train_ann_file is None:
        return None
    looked_for = (
        "no image has 'neg_category_ids', so every category counts as looked for in every image"
        if ground_truth.judged is None
        else "categories count where they are annotated or verified absent"
    )
    if train_ann_file is not None:
        groups = f"by the number of images in {train_ann_file}"
    elif ground_truth.frequencies is not None:
        groups = "by the field 'frequency'"
    else:
        groups = "left out, as neither 'frequency' nor 'train_ann_file' is given"
    return f"{looked_for}; APr, APc and APf are {groups}."


def warn_of_numbers(ground_truth: LVISGroundTruth, max_detections: int) -> str | None:
    """Say that nothing is annotated, or that an image has more objects than may be detected."""
    counts = np.bincount(ground_truth.image[~ground_truth.ignore], minlength=1)
    most = counts.argmax()
    if counts[most] == 0:
        return "has no annotations that count, so that AP is -1."
    if counts[most] > max_detections:
        return (
            f"image {ground_truth.image_ids[most]} has {counts[most]:,} objects, but only "
            f"{max_detections} detections of an image count; set 'max_detections' of the "
            "evaluator, and 'max_per_img' of the model's test_cfg, to more."
        )
    return None
