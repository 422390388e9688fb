"""What a model predicts in an image, between a data sample and the columns of evaluation."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.annotations.class_names import check_classes, positions_of_classes
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_results import image_records, write_results
from mmdet_eql.evaluation.result_mistakes import describe_limits
from mmdet_eql.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """What a model predicts in an image, small enough to send between processes.

    It is no container that mmengine would walk through, mask by mask, in search of tensors.

    Args:
        image_id (int): Id of the image.
        labels (np.ndarray): Labels, int64 of shape (N,).
        boxes (np.ndarray): x1, y1, x2, y2 in pixels, floating point of shape (N, 4).
        scores (np.ndarray): Floating point of shape (N,).
        masks (list[bytes], optional): Compressed RLE ``counts``, N of them.
        mask_size (tuple[int, int], optional): Height and width of the masks in pixels.
        mask_scores (np.ndarray): Scores of the masks, shape (N,).
        num_dropped (int): Detections left out because a coordinate or score is not finite.
    """

    image_id: int
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: list[bytes] | None
    mask_size: tuple[int, int] | None
    mask_scores: np.ndarray
    num_dropped: int

    @classmethod
    def from_arrays(cls, image_id: int, pred: Mapping[str, Any]) -> "ImagePredictions":
        """Keep the finite predictions of an image, and encode their masks.

        ``pred`` has arrays ``bboxes``, ``scores`` and ``labels`` and, where they are known,
        ``mask_scores`` and ``masks``: bool of shape (N, H, W), or N masks as compressed RLE.

        Raises:
            UserError: If the masks differ in size.
        """
        boxes, scores = pred["bboxes"].reshape(-1, 4), pred["scores"]
        mask_scores = pred.get("mask_scores", scores)
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(mask_scores)
        kept = np.flatnonzero(finite)
        masks = pred.get("masks")
        counts, size = (None, None) if masks is None else _encode_masks(masks, kept, image_id)
        labels, num_dropped = pred["labels"].astype(np.int64)[kept], len(finite) - len(kept)
        boxes, scores, mask_scores = boxes[kept], scores[kept], mask_scores[kept]
        return cls(image_id, labels, boxes, scores, counts, size, mask_scores, num_dropped)

    def take(self, wanted: np.ndarray) -> "ImagePredictions":
        """Return the predictions that are wanted, bool of shape (N,)."""
        kept = np.flatnonzero(wanted)
        if len(kept) == len(self.labels):
            return self
        masks = None if self.masks is None else [self.masks[index] for index in kept]
        columns = ("labels", "boxes", "scores", "mask_scores")
        chosen = {name: getattr(self, name)[kept] for name in columns}
        return replace(self, masks=masks, **chosen)

    def boxes_xywh(self) -> np.ndarray:
        """Return boxes as x, y, width, height: float64 of shape (N, 4)."""
        boxes = self.boxes.astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)

    def box_records(self, category_of_label: np.ndarray) -> list[dict]:
        """Return N records of a result file of boxes, with the category id of each label."""
        categories, scores = category_of_label[self.labels], self.scores.astype(np.float64)
        return image_records(self.image_id, categories, scores, self.boxes_xywh())

    def mask_records(self, category_of_label: np.ndarray) -> list[dict]:
        """Return N records of a result file of masks; none without masks."""
        if self.masks is None:
            return []
        categories, scores = category_of_label[self.labels], self.mask_scores.astype(np.float64)
        return image_records(self.image_id, categories, scores, None, self.masks, self.mask_size)


def write_predictions(
    prefix: str, results: Sequence[ImagePredictions], category_of_label: np.ndarray
) -> list[str]:
    """Write ``{prefix}.bbox.json`` and, if there are masks, ``{prefix}.segm.json``; return both."""
    paths = [f"{prefix}.bbox.json"]
    write_results(paths[0], (result.box_records(category_of_label) for result in results))
    if any(result.masks is not None for result in results):
        paths.append(f"{prefix}.segm.json")
        write_results(paths[1], (result.mask_records(category_of_label) for result in results))
    return paths


def join_predictions(
    results: Sequence[ImagePredictions],
    ground_truth: LVISGroundTruth,
    category_of_label: np.ndarray | None,
    iou_type: str,
) -> LVISDetections:
    """Bring the predictions of all images into columns, in their order.

    Args:
        results (Sequence[ImagePredictions]): Of images of the ground truth.
        ground_truth (LVISGroundTruth): Sets the positions of images and categories.
        category_of_label (np.ndarray, optional): Category id of each label, int64; None to put all
            predictions into the first category.
        iou_type (str): 'bbox' to take boxes and their scores; else masks and theirs are taken.
    """
    with_masks = iou_type != "bbox"
    # What the arrays begin with serves if there are no results.
    labels = np.concatenate([np.zeros(0, np.int64), *(result.labels for result in results)])
    scores = (result.mask_scores if with_masks else result.scores for result in results)
    image_ids = np.repeat(
        np.array([result.image_id for result in results], dtype=np.int64),
        np.array([len(result.labels) for result in results], dtype=np.int64),
    )
    category = np.zeros_like(labels)
    if category_of_label is not None:
        category = np.searchsorted(ground_truth.category_ids, category_of_label)[labels]
    boxes, masks = None, None
    if with_masks:
        masks = np.array([counts for result in results for counts in result.masks], dtype=object)
    else:
        boxes = np.concatenate([np.zeros((0, 4)), *(result.boxes_xywh() for result in results)])
    return LVISDetections(
        image=np.searchsorted(ground_truth.image_ids, image_ids),
        category=category,
        score=np.concatenate([np.zeros(0), *scores]),
        boxes=boxes,
        masks=masks,
    )


def remove_repetitions(
    results: Sequence[ImagePredictions], logger: logging.Logger
) -> list[ImagePredictions]:
    """Return the first predictions of each image, and log a warning if there were others."""
    by_image = {}
    for result in results:
        by_image.setdefault(result.image_id, result)
    if len(by_image) < len(results):
        logger.warning(
            f"{len(results) - len(by_image):,} images were predicted more than once; the first "
            "prediction counts."
        )
    return list(by_image.values())


def categories_of_labels(
    classes: Sequence[str] | None,
    category_ids: np.ndarray,
    category_names: Sequence[str],
    ann_file: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the category id of each label, int64, and whether the file has one at all, bool.

    Args:
        classes (Sequence[str], optional): Classes of the model in the order of the labels. None
            takes labels as positions among the categories.
        category_ids (np.ndarray): Sorted ids of the categories of the annotation file, int64.
        category_names (Sequence[str]): Their names.
        ann_file (str): Name of the file, for error messages.

    Raises:
        UserError: If the classes cannot be found by name.
    """
    if classes is None:
        return category_ids, np.ones(len(category_ids), dtype=bool)
    check_classes(classes, category_names, ann_file)
    position = positions_of_classes(classes, category_names)
    return category_ids[position], position >= 0


def check_labels(results: Iterable[ImagePredictions], num_classes: int, ann_file: str) -> None:
    """Raise a UserError if a label is not below the number of classes."""
    label = max((result.labels.max(initial=-1) for result in results), default=-1)
    if label >= num_classes:
        raise UserError(
            f"{ann_file}: the model predicts label {label}, but there are {num_classes} classes; "
            "the model is trained on others: give the annotation file that belongs to it."
        )


def check_images(
    results: Sequence[ImagePredictions],
    ground_truth: LVISGroundTruth,
    ann_file: str,
    with_masks: bool,
    max_detections: int,
    logger: logging.Logger,
) -> None:
    """Raise a UserError if an image, or the size of a mask, is not that of the annotation file.

    Log a warning if images were not predicted, or the model seems to give too few detections.
    """
    sizes = zip(ground_truth.image_ids.tolist(), ground_truth.image_sizes.tolist(), strict=True)
    size_of = dict(sizes)
    for result in results:
        size = size_of.get(result.image_id)
        if size is None:
            raise UserError(
                f"{ann_file}: has no image {result.image_id}, which the model was tested on; give "
                "the evaluator the 'ann_file' of the dataset."
            )
        if with_masks and result.masks and list(result.mask_size) != size:
            raise UserError(
                f"{ann_file}: image {result.image_id} is annotated with {size[0]}x{size[1]} pixels "
                f"(height x width), but its predicted masks have {result.mask_size[0]}x"
                f"{result.mask_size[1]}; correct the annotation, or test on images of the original "
                "size."
            )
    if len(results) < len(size_of):
        logger.warning(
            f"{len(size_of) - len(results):,} of {len(size_of):,} images of {ann_file} were not "
            "predicted; their objects count as missed."
        )
    counts = np.array([len(result.scores) for result in results if len(result.scores)])
    lowest = min((result.scores.min(initial=np.inf) for result in results), default=0)
    limits = describe_limits(counts, lowest, len(ground_truth.category_ids), max_detections)
    if limits is not None:
        logger.warning(limits)


def _encode_masks(
    masks: np.ndarray | Sequence[dict], kept: np.ndarray, image_id: int
) -> tuple[list[bytes], tuple[int, int]]:
    """Compressed RLE ``counts`` of the kept masks, and height and width of all."""
    if isinstance(masks, np.ndarray):
        bitmaps = (np.asfortranarray(masks[index], dtype=np.uint8) for index in kept)
        rles = [mask_utils.encode(bitmap) for bitmap in bitmaps]
        sizes = {masks.shape[-2:]}
    else:
        rles = [masks[index] for index in kept]
        sizes = {tuple(rle["size"]) for rle in masks}
    if len(sizes) > 1:
        raise UserError(
            f"LVISFastMetric: the masks of image {image_id} differ in size ({sorted(sizes)}); the "
            "model must give all in the size of the image."
        )
    height, width = sizes.pop() if sizes else (0, 0)
    counts = [rle["counts"] for rle in rles]
    counts = [text.encode("ascii") if isinstance(text, str) else text for text in counts]
    return counts, (int(height), int(width))
