"""Evaluating the result files of any project: one, or several side by side.

A result *file* may be a JSON file, compressed by gzip or not, or its *shards*, the files that the
processes of a test wrote: a folder, or a pattern such as ``out/part-*.json``.
"""

import glob
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmdet_eql.evaluation.bootstrap import NUM_DRAWS, intervals, resample_metrics
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, read_ground_truth
from mmdet_eql.evaluation.error_kinds import error_costs
from mmdet_eql.evaluation.fixed_ap import MAX_PER_CATEGORY, best_of_category_metrics
from mmdet_eql.evaluation.lvis_evaluation import (
    MAX_DETECTIONS,
    LVISEvaluation,
    check_iou_type,
    evaluate_detections,
)
from mmdet_eql.evaluation.lvis_results import read_results
from mmdet_eql.evaluation.metric_items import check_number
from mmdet_eql.evaluation.protocol import count_groups
from mmdet_eql.evaluation.result_mistakes import (
    check_classes,
    check_detections,
    describe_limits,
    warn_of_missing_images,
)
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.json_pieces import read_file


@dataclass(frozen=True, eq=False)
class FileEvaluation:
    """What a result file was evaluated to.

    Args:
        results (str): The file, or its shards, as they were given.
        evaluation (LVISEvaluation): Precision and recall.
        metrics (dict[str, float]): Those of ``evaluation.metrics()``, fractions or -1; Fixed AP and
            pooled AP, where they were asked for, as ``fixed_AP``, ``fixed_APr``, ``pooled_AP`` and
            so on.
        intervals (dict, optional): Lower and upper end of the 95 % interval of AP, APr, APc and
            APf, and of Fixed AP and pooled AP if asked for, by name; None without ground truth.
        gain (FileGain, optional): What the file gains over the first one.
        errors (dict, optional): What each kind of error costs
            (:func:`mmdet_eql.evaluation.error_kinds.error_costs`).
    """

    results: str
    evaluation: LVISEvaluation
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float] | None] | None = None
    gain: "FileGain | None" = None
    errors: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True, eq=False)
class FileGain:
    """Metrics of a file minus those of the first one.

    Args:
        metrics (dict[str, float]): Those with intervals that have ground truth.
        intervals (dict[str, tuple[float, float]]): Their 95 % intervals, both files on the same
            draws of images.
        wins (int): Categories of higher AP than in the first file.
        losses (int): Categories of lower AP.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    wins: int
    losses: int


def compare_files(
    ann_file: str | os.PathLike,
    results: Sequence[str | os.PathLike],
    iou_type: str = "bbox",
    images: str | os.PathLike | Sequence[int] | None = None,
    fixed_ap: bool | int = False,
    pooled_ap: bool | int = False,
    bootstrap: bool | int = False,
    errors: bool = False,
    train_ann_file: str | os.PathLike | None = None,
) -> list[FileEvaluation]:
    """Evaluate result files, or their shards, on one annotation file.

    Args:
        ann_file (str | os.PathLike): Annotation file in LVIS or COCO format.
        results (Sequence[str | os.PathLike]): Result files, folders or patterns of shards.
        iou_type (str): 'bbox', 'segm' or 'boundary'.
        images (str | os.PathLike | Sequence[int], optional): Image ids to evaluate on, such as
            those of LVIS minival, or a file with them (:func:`read_image_list`). Defaults to all.
        fixed_ap (bool | int): Add Fixed AP, of the best 10,000 detections of each category, or of
            another number.
        pooled_ap (bool | int): Add pooled AP, likewise (:mod:`mmdet_eql.evaluation.fixed_ap`).
        bootstrap (bool | int): Add intervals from 1,000 draws of images, or from another number,
            and what each file gains over the first one (:mod:`mmdet_eql.evaluation.bootstrap`).
        errors (bool): Add what each kind of error costs
            (:mod:`mmdet_eql.evaluation.error_kinds`).
        train_ann_file (str | os.PathLike, optional): Training annotations, whose numbers of images
            say which categories are rare, common and frequent. Defaults to the field ``frequency``.

    Returns:
        list[FileEvaluation]: In the order of ``results``.

    Raises:
        UserError: If a file cannot be used, or does not belong to the annotation file.

    Example:
        >>> a, b = compare_files("lvis_v1_val.json", ["a.json", "b.json.gz"])  # doctest: +SKIP
        >>> a.metrics["APr"], b.metrics["APr"]  # doctest: +SKIP
    """
    check_iou_type(iou_type)
    ann_file, *results = map(os.fspath, (ann_file, *results))
    fixed_ap = check_number("fixed_ap", fixed_ap, MAX_PER_CATEGORY)
    pooled_ap = check_number("pooled_ap", pooled_ap, MAX_PER_CATEGORY)
    bootstrap = check_number("bootstrap", bootstrap, NUM_DRAWS)
    ground_truth = read_ground_truth(ann_file, iou_type != "bbox")
    if ground_truth.judged is None:
        warnings.warn(
            f"{ann_file}: no image has 'neg_category_ids', so every category counts as looked for "
            f"in every image, as in COCO; the best {MAX_DETECTIONS} detections of an image count, "
            "where COCO's own evaluation has 100 of each category.",
            stacklevel=2,
        )
    train_ann_file = train_ann_file and os.fspath(train_ann_file)
    ground_truth = count_groups(ground_truth, train_ann_file, ann_file)
    if isinstance(images, (str, os.PathLike)):
        images = read_image_list(os.fspath(images))
    if images is not None:
        _check_images(images, ground_truth, ann_file)
    files, first_draws = [], None
    for one in results:
        detections = read_shards(one, ground_truth, iou_type, ann_file)
        check_detections(one, ground_truth, detections, ann_file)
        truth = ground_truth
        if images is not None:
            truth, detections = ground_truth.select_images(images, detections)
        warn_of_missing_images(one, truth, detections)
        counts = np.unique(detections.image, return_counts=True)[1]
        lowest, number = detections.score.min(initial=0), len(truth.category_ids)
        limit = np.inf if fixed_ap or pooled_ap else MAX_DETECTIONS
        limits = describe_limits(counts, lowest, number, limit)
        if limits is not None:
            warnings.warn(f"{one}: {limits}", stacklevel=2)
        try:
            evaluation = evaluate_detections(truth, detections, iou_type)
            metrics = evaluation.metrics()
            metrics |= best_of_category_metrics(
                truth, detections, iou_type, fixed_ap, pooled_ap, source=f"{one}: "
            )
        except UserError as error:
            raise UserError(f"{one}: {error}") from None
        check_classes(one, truth, detections, ann_file)
        file = FileEvaluation(one, evaluation, metrics)
        if errors:
            file = replace(file, errors=error_costs(truth, detections, iou_type))
        if bootstrap:
            limits = fixed_ap, pooled_ap
            draws = resample_metrics(truth, detections, iou_type, bootstrap, *limits)
            if files:
                gained = {name: draws[name] - first_draws[name] for name in draws}
                file = replace(file, gain=_gain(files[0], file, gained))
            else:
                first_draws = draws
            file = replace(file, intervals=intervals(draws, metrics))
        files.append(file)
    return files


def _gain(first: FileEvaluation, file: FileEvaluation, draws: dict[str, np.ndarray]) -> FileGain:
    metrics = {name: file.metrics[name] - first.metrics[name] for name in draws}
    ends = {name: of for name, of in intervals(draws, metrics).items() if of is not None}
    of_category = file.evaluation.category_ap() - first.evaluation.category_ap()
    wins, losses = int((of_category > 0).sum()), int((of_category < 0).sum())
    return FileGain({name: metrics[name] for name in ends}, ends, wins, losses)


def read_shards(
    results: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str
) -> LVISDetections:
    """Read a result file or its shards, in the order of their names.

    Processes that test together may each predict an image, to have equally many; then the first
    shard counts, with a warning. Errors are those of
    :func:`mmdet_eql.evaluation.lvis_results.read_results`, and of a place without shards.
    """
    shards = [results]
    if os.path.isdir(results):
        shards = sorted(glob.glob(os.path.join(glob.escape(results), "*.json")))
        shards += sorted(glob.glob(os.path.join(glob.escape(results), "*.json.gz")))
    elif not os.path.exists(results) and re.search(r"[*?\[]", results):
        shards = sorted(glob.glob(results))
    if not shards:
        raise UserError(f"{results}: no result files (.json, .json.gz) there; correct the path.")
    blocks, seen, repeated = [], np.zeros(len(ground_truth.image_ids), dtype=bool), 0
    for shard in shards:
        block = read_results(shard, ground_truth, iou_type, ann_file)
        again = seen[block.image]
        if again.any():
            repeated += len(np.unique(block.image[again]))
            block = block.take(~again)
        seen[block.image] = True
        blocks.append(block)
    if repeated:
        warnings.warn(
            f"{results}: {repeated:,} images are in more than one shard; the first one counts.",
            stacklevel=2,
        )
    blocks = [block for block in blocks if len(block.score)] or blocks[:1]
    if iou_type == "segm" and any(block.boxes is None for block in blocks):
        blocks = [replace(block, boxes=None) for block in blocks]
    return LVISDetections.concatenate(blocks)


def read_image_list(path: str) -> list[int]:
    """Read which images to evaluate on.

    The file is a JSON list of image ids, an annotation file with ``images``, or a text file with an
    id, or a file name with COCO's id in it (``val2017/000000397133.jpg``), on each line.

    Raises:
        UserError: If the file cannot be read or is none of these.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"{path}: the list of images cannot be read ({reason}); correct the path."
        ) from None
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content = [image["id"] for image in content["images"]]
        ids = content if isinstance(content, list) else [content]
    except (ValueError, KeyError, TypeError, RecursionError):
        ids = [Path(line.strip()).stem for line in text.splitlines() if line.strip()]
        ids = [int(stem) if stem.isdecimal() else stem for stem in ids]
    wrong = [value for value in ids if type(value) is not int]
    if wrong or not ids:
        shown = f"{str(wrong[0])[:60]!r} is no image id" if wrong else "it is empty"
        raise UserError(
            f"{path}: {shown}; give a JSON list of image ids, an annotation file, or a text file "
            "with an id or COCO file name on each line."
        )
    return ids


def _check_images(images: Sequence[int], ground_truth: LVISGroundTruth, ann_file: str) -> None:
    if not len(images):
        raise UserError("images is empty; give image ids, or None for all images.")
    unknown = set(images).difference(ground_truth.image_ids.tolist())
    if unknown:
        raise UserError(
            f"{ann_file}: has no image {min(unknown)}, nor {len(unknown) - 1:,} others of the list "
            "of images; give the annotation file that the list is made for."
        )
