"""Merging the result files of several models into one, by weighted box fusion.

Weighted box fusion (Solovyev et al., arXiv 1910.13302) lets boxes of one category that overlap
become one box: the mean of them by score, whose score is their mean, too, scaled down where models
are missing. Masks follow the boxes that they are in. M is the number of models, each with one
result file.
"""

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.annotations import read_annotations
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import detection_areas
from mmdet_eql.evaluation.lvis_results import image_records, read_results, write_results
from mmdet_eql.evaluation.result_mistakes import (
    check_classes,
    check_detections,
    warn_of_missing_images,
)
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.json_pieces import pause_garbage_collection, read_file
from mmdet_eql.utils.processes import map_forked

#: ensemble-boxes computes fused boxes in single precision, and divides by scores.
_LOWEST_SCORE = float(np.finfo(np.float32).tiny)
_HEAD = 1 << 16  # bytes of a file that show its kind


@dataclass(frozen=True)
class FusionConfig:
    """How to fuse detections.

    Args:
        weights (tuple[float]): Weight of each model, M positive numbers.
        iou_threshold (float): Boxes of one category that overlap by more become one, in (0, 1).
        max_per_image (int): Detections to keep per image, the best ones.
        masks (str): ``"average"``: a fused mask has the pixels that at least half of its masks
            have, by weight and score. ``"best"``: it is the mask of the highest weighted score.

    Raises:
        UserError: If a value is out of range.
    """

    weights: tuple[float, ...]
    iou_threshold: float = 0.55
    max_per_image: int = 300
    masks: str = "average"

    def __post_init__(self) -> None:
        for weight in self.weights:
            if not 0 < weight < math.inf:
                raise UserError(f"weights: {weight} is no weight; give positive numbers.")
        if not 0 < self.iou_threshold < 1:
            raise UserError(f"iou_threshold: {self.iou_threshold} is not between 0 and 1.")
        if self.max_per_image < 1:
            raise UserError(f"max_per_image: {self.max_per_image} is less than 1.")
        if self.masks not in ("average", "best"):
            raise UserError(f"masks: {self.masks!r} is neither 'average' nor 'best'.")


def fuse_files(
    paths: Sequence[str], ann_file: str, out: str, config: FusionConfig, num_workers: int = 1
) -> tuple[int, int]:
    """Merge result files of boxes, or of masks, into one; return how many detections go in and out.

    Boxes are those of the records or, in files of masks, those around the masks. Detections without
    area or of score 0 are left out.

    Args:
        paths (Sequence[str]): M result files, as the metrics write them.
        ann_file (str): Annotation file in LVIS format that they belong to, with or without
            annotations; it knows the sizes of the images.
        out (str): File to write, whole or not at all.
        config (FusionConfig): How to fuse.
        num_workers (int): Number of processes.

    Raises:
        UserError: If a file cannot be used, or ``ensemble-boxes`` is not installed.
    """
    if len(paths) < 2:
        raise UserError("one result file alone needs no merging; give two or more.")
    if len(config.weights) != len(paths):
        raise UserError(
            f"weights: {len(config.weights)} numbers for {len(paths)} result files; give one each."
        )
    _weighted_boxes_fusion()
    iou_type = _common_kind(paths)
    with pause_garbage_collection():
        columns = read_annotations(ann_file, annotated=False)
        ground_truth = LVISGroundTruth.from_columns(columns, ann_file)
        models = [_read_model(path, ground_truth, iou_type, ann_file) for path in paths]
    fuse = functools.partial(_fused_records, config=config)
    with map_forked(fuse, _images_of(models, ground_truth), num_workers) as records:
        num_written = write_results(out, records, "choose another --out")
    return sum(len(model.score) for model in models), num_written


def fuse_image(
    models: Sequence[LVISDetections], size: tuple[int, int], config: FusionConfig
) -> LVISDetections:
    """Fuse the detections of M models in an image: the best ones, by falling score.

    Args:
        models (Sequence[LVISDetections]): Detections of each model.
        size (tuple[int, int]): Height and width of the image in pixels.
        config (FusionConfig): How to fuse.
    """
    models = [_with_area_and_score(model, size) for model in models]
    detections = LVISDetections.concatenate(models)
    if not len(detections.score):
        return detections
    scale = size[::-1] * 2
    boxes, scores, category = _weighted_boxes_fusion()(
        [(_corners(model.boxes) / scale).clip(0, 1) for model in models],
        [model.score for model in models],
        [model.category for model in models],
        weights=config.weights,
        iou_thr=config.iou_threshold,
    )
    boxes = boxes * scale
    boxes[:, 2:] -= boxes[:, :2]
    image = np.full(len(scores), detections.image[0])
    fused = LVISDetections(image, category.astype(np.int64), scores, boxes)
    best = np.argsort(-scores, kind="stable")[: config.max_per_image]
    if detections.masks is None:
        return fused.take(best)
    weights = np.repeat(config.weights, [len(model.score) for model in models]) * detections.score
    # The library does not say which detections went into which. A detection is taken to have gone
    # into the one of its category that it overlaps most; a fused detection that would have none has
    # the one that overlaps it most.
    overlap = mask_utils.iou(detections.boxes, boxes, np.zeros(len(boxes), dtype=np.uint8))
    overlap[detections.category[:, None] != fused.category] = -1
    owner = overlap.argmax(axis=1)
    masks = np.empty(len(scores), dtype=object)
    for index in best:
        members = np.flatnonzero(owner == index)
        members = members if len(members) else overlap[:, [index]].argmax(axis=0)
        of_members = detections.masks[members], weights[members]
        masks[index] = _fuse_masks(*of_members, size, config.masks)
    return replace(fused, masks=masks).take(best)


def _fuse_masks(masks: np.ndarray, weights: np.ndarray, size: tuple[int, int], how: str) -> bytes:
    """Compressed RLE of the mean of masks by weight, or of the one with the highest weight."""
    best = masks[weights.argmax()]
    if how == "best" or len(set(masks)) == 1:
        return best
    share = sum(
        weight * mask_utils.decode({"size": list(size), "counts": counts})
        for weight, counts in zip(weights / weights.sum(), masks, strict=True)
    )
    # Rounding must not take a pixel that half of them have.
    mean = share >= 0.5 - 1e-9
    return mask_utils.encode(np.asfortranarray(mean))["counts"] if mean.any() else best


def _with_area_and_score(detections: LVISDetections, size: tuple[int, int]) -> LVISDetections:
    """Clip boxes to the image, and leave out what has no area there or no score."""
    boxes = _corners(detections.boxes).clip(0, size[::-1] * 2)
    boxes[:, 2:] -= boxes[:, :2]
    kept = (boxes[:, 2:] > 0).all(axis=1) & (detections.score > _LOWEST_SCORE)
    return replace(detections, boxes=boxes).take(kept)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _weighted_boxes_fusion():
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError as error:
        raise UserError(
            f"merging needs the package ensemble-boxes ({error}); install it by `pip install "
            "--no-deps -r requirements/merge.txt`."
        ) from None
    return weighted_boxes_fusion


# --- files ----------------------------------------------------------------------------------------


def _common_kind(paths: Sequence[str]) -> str:
    """'bbox' or 'segm': what all files hold but those that are empty lists."""
    path_of = {}
    for path in paths:
        head = ""
        with contextlib.suppress(OSError):  # whoever reads all of it says why
            head = read_file(path, _HEAD).decode("utf-8", "replace")
        if head and not re.fullmatch(r"\s*\[\s*\]\s*", head):
            path_of["segm" if '"segmentation"' in head else "bbox"] = path
    if len(path_of) > 1:
        raise UserError(
            f"{path_of['bbox']} holds boxes and {path_of['segm']} holds masks; merge files of one "
            "kind."
        )
    return next(iter(path_of), "bbox")


def _read_model(
    path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str
) -> LVISDetections:
    """Read a result file, in the order of the images, and check it as for evaluation."""
    detections = read_results(path, ground_truth, iou_type, ann_file)
    check_detections(path, ground_truth, detections, ann_file)
    warn_of_missing_images(path, ground_truth, detections)
    try:
        detection_areas(ground_truth, detections, iou_type)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_classes(path, ground_truth, detections, ann_file)
    return detections.take(np.argsort(detections.image, kind="stable"))


def _images_of(models: Sequence[LVISDetections], ground_truth: LVISGroundTruth) -> Iterator[tuple]:
    """Of each image its id, its size, the ids of the categories and what each model detected."""
    starts = [
        np.searchsorted(model.image, np.arange(len(ground_truth.image_ids) + 1)) for model in models
    ]
    for position, image_id in enumerate(ground_truth.image_ids.tolist()):
        size = tuple(ground_truth.image_sizes[position].tolist())
        parts = []
        for model, start in zip(models, starts, strict=True):
            part = model.take(slice(start[position], start[position + 1]))
            if part.masks is not None:
                rles = [{"size": size, "counts": counts} for counts in part.masks]
                part = replace(part, boxes=mask_utils.toBbox(rles).reshape(-1, 4))
            parts.append(part)
        if any(len(part.score) for part in parts):
            yield image_id, size, ground_truth.category_ids, parts


def _fused_records(image: tuple, config: FusionConfig) -> list[dict]:
    image_id, size, category_ids, models = image
    fused = fuse_image(models, size, config)
    categories = category_ids[fused.category]
    return image_records(image_id, categories, fused.score, fused.boxes, fused.masks, size)
