"""Choosing a calibration on training images, and reporting it on the validation images.

The network runs once over each set of images. What its box heads give, boxes before NMS and logits,
is scored by every calibration in turn.
"""

import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmdet_eql.decoupled.calibration import Calibration, calibrated_scores
from mmdet_eql.engine.class_list_hook import follow_classes
from mmdet_eql.evaluation.columns import LVISGroundTruth, read_ground_truth
from mmdet_eql.evaluation.file_evaluation import FileEvaluation
from mmdet_eql.evaluation.fixed_ap import MAX_PER_CATEGORY, best_of_category_metrics
from mmdet_eql.evaluation.image_predictions import (
    ImagePredictions,
    categories_of_labels,
    join_predictions,
)
from mmdet_eql.evaluation.lvis_evaluation import MAX_DETECTIONS, evaluate_detections
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.heads import multiclass_nms
from mmdet_eql.heads.roi_head import semantic_features, stages_of
from mmdet_eql.utils.errors import UserError


def box_heads(detector: nn.Module) -> list[nn.Module]:
    """Return the box head of each stage; a UserError if it is no two-stage detector with an RPN."""
    if not isinstance(detector, TwoStageDetector) or not (
        detector.with_rpn and detector.with_roi_head
    ):
        raise UserError(
            f"model: calibration is for two-stage detectors with an RPN, and this is a "
            f"{type(detector).__name__}."
        )
    return stages_of(detector.roi_head.bbox_head)


@torch.no_grad()
def box_outputs(detector: nn.Module, data: dict) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Yield what the box heads give for each image of a batch that has proposals: its id, boxes
    before NMS in pixels of the original image, shape (R, 4) or (R, C * 4), and the logits of each
    stage, shape (R, K)."""
    data = detector.data_preprocessor(data, False)
    samples = data["data_samples"]
    features = detector.extract_feat(data["inputs"])
    proposals = detector.rpn_head.predict(features, samples, rescale=False)
    roi_head = detector.roi_head
    more = semantic_features(roi_head, features)
    logits: list[Tensor] = []
    with ExitStack() as hooks:
        for head in box_heads(detector):
            hook = head.register_forward_hook(lambda _, given, output: logits.append(output[0]))
            hooks.enter_context(hook)
        # Without a test_cfg, it returns the boxes before NMS.
        raw = roi_head.predict_bbox(
            features, [sample.metainfo for sample in samples], proposals, None, rescale=True, **more
        )
    sizes = [len(of_image.bboxes) for of_image in proposals]
    stages = [of_stage.split(sizes) for of_stage in logits]
    for index, sample in enumerate(samples):
        if sizes[index]:
            yield sample.img_id, raw[index].bboxes, [of_stage[index] for of_stage in stages]


def predict(
    detector: nn.Module,
    loader: DataLoader,
    calibrations: Sequence[Calibration],
    image_count: Tensor,
    max_per_img: int | None = None,
) -> list[list[ImagePredictions]]:
    """Detect with each calibration, by ``test_cfg.rcnn`` of the detector, boxes alone.

    Args:
        detector (nn.Module): A two-stage detector in evaluation mode.
        loader (DataLoader): Images as for testing; a bar shows the progress.
        calibrations (Sequence[Calibration]): What to score with.
        image_count (Tensor): N_j, float64 of shape (C,).
        max_per_img (int, optional): Detections of an image. By default those of the ``test_cfg``.

    Returns:
        list[list[ImagePredictions]]: For each calibration those of each image.
    """
    heads, cfg = box_heads(detector), detector.test_cfg.rcnn
    predictions: list[list[ImagePredictions]] = [[] for _ in calibrations]
    for data in track_iter_progress((loader, len(loader))):
        for image_id, boxes, logits in box_outputs(detector, data):
            for calibration, of_images in zip(calibrations, predictions, strict=True):
                scores = calibrated_scores(calibration, heads, logits, image_count)
                dets, labels = multiclass_nms(
                    boxes, scores, cfg.score_thr, cfg.nms, max_per_img or cfg.max_per_img
                )
                arrays = dict(bboxes=dets[:, :4], scores=dets[:, 4], labels=labels)
                arrays = {name: value.cpu().numpy() for name, value in arrays.items()}
                of_images.append(ImagePredictions.from_arrays(image_id, arrays))
    return predictions


def evaluate(
    name: str,
    predictions: Sequence[ImagePredictions],
    ground_truth: LVISGroundTruth,
    classes: Sequence[str],
    ann_file: str,
    image_ids: Sequence[int],
    max_detections: int = MAX_DETECTIONS,
) -> FileEvaluation:
    """Return AP, Fixed AP and pooled AP of boxes, on some images of an annotation file.

    ``classes`` are those of the labels. ``max_detections`` of an image count for AP, and all for
    Fixed AP and pooled AP, of the best 10,000 of each category.
    """
    ids, known = categories_of_labels(
        classes, ground_truth.category_ids, ground_truth.category_names, ann_file
    )
    truth = ground_truth.select_categories(ids[known])
    results = [result.take(known[result.labels]) for result in predictions]
    truth, detections = truth.select_images(
        image_ids, join_predictions(results, truth, ids, "bbox")
    )
    evaluation = evaluate_detections(truth, detections, "bbox", max_detections=max_detections)
    with warnings.catch_warnings():
        # Of some images no category has 10,000 detections.
        warnings.simplefilter("ignore")
        best = best_of_category_metrics(
            truth, detections, "bbox", MAX_PER_CATEGORY, MAX_PER_CATEGORY
        )
    return FileEvaluation(name, evaluation, evaluation.metrics() | best)


def compare(
    detector: nn.Module,
    loader: DataLoader,
    calibrations: Sequence[Calibration],
    frequency: ClassFrequency,
    max_per_img: int | None = None,
    by_counts: bool = False,
) -> list[FileEvaluation]:
    """Evaluate calibrations on the images of a loader whose data set has an ``ann_file``.

    The data set has the classes of the detector, and ``frequency`` counts them in its training set.
    The groups of APr, APc and APf are those of the file, or those that the counts give: where the
    file has none, or ``by_counts``.
    """
    dataset = loader.dataset
    classes, limit = frequency.class_names, detector.test_cfg.rcnn.max_per_img
    device = next(detector.parameters()).device
    count = torch.from_numpy(frequency.image_count).double().to(device)
    predictions = predict(detector, loader, calibrations, count, max_per_img)
    truth = read_ground_truth(dataset.ann_file, backend_args=dataset.backend_args)
    if by_counts or truth.frequencies is None:
        group = dict(zip(classes, frequency.group, strict=True))
        truth = replace(
            truth, frequencies=np.array([group.get(name, "r") for name in truth.category_names])
        )
    image_ids = [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]
    max_detections = min(limit, MAX_DETECTIONS) if limit > 0 else MAX_DETECTIONS
    return [
        evaluate(str(name), of, truth, classes, dataset.ann_file, image_ids, max_detections)
        for name, of in zip(calibrations, predictions, strict=True)
    ]


def training_images(cfg: Config, number: int, classes: Sequence[str]) -> DataLoader:
    """Return a loader of some images of the training set, drawn at random, as for testing.

    Its data set has these classes. A UserError if the training set joins several files, or the
    number is below 1.
    """
    if number < 1:
        raise UserError(f"--images is {number}; give at least 1 training image to choose on.")
    dataset, tested = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    while "dataset" in dataset:  # wrapped
        dataset = dataset.dataset
    while "dataset" in tested:
        tested = tested.dataset
    if "ann_file" not in dataset:
        raise UserError(
            f"train_dataloader.dataset: a {dataset.get('type')} has no annotation file of its own; "
            "name one training set to choose the calibration on, by --cfg-options."
        )
    dataset = dict(dataset, pipeline=tested.pipeline, test_mode=True, filter_cfg=None)
    size = len(DATASETS.build(dataset))
    chosen = sorted(random.Random(0).sample(range(size), min(number, size)))
    loader = dict(cfg.test_dataloader, dataset=dict(dataset, indices=chosen))
    loader = Runner.build_dataloader(loader)
    follow_classes(loader.dataset, classes, "train_dataloader.dataset")
    return loader


def best_of(
    calibrations: Sequence[Calibration], files: Iterable[FileEvaluation], metric: str
) -> list[Calibration]:
    """Return the best parameter of each method by a metric, in the order of their metrics.

    "none" is among them. Of equal ones the first is taken. A UserError if there is no such metric,
    or nothing in the images that it could be of.
    """
    value = {}
    for calibration, file in zip(calibrations, files, strict=True):
        if metric not in file.metrics:
            names = ", ".join(name for name in file.metrics if "@" not in name)
            raise UserError(f"--by {metric}: no such metric; choose one of {names}.")
        value[calibration] = file.metrics[metric]
    if max(value.values()) == -1:
        raise UserError(
            f"--by {metric}: nothing in the training images counts for it; take more --images, or "
            "choose by AP."
        )
    ranked = sorted(calibrations, key=lambda calibration: -value[calibration])
    best: dict[str, Calibration] = {}
    for calibration in ranked:
        best.setdefault(calibration.method, calibration)
    return list(best.values())
