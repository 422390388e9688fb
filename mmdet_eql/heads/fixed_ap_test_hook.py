"""Testing for Fixed AP: asking a two-stage detector for each category's best detections."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import HOOKS
from mmdet.structures.mask import encode_mask_results
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

from mmdet_eql.heads.multiclass_nms import multiclass_nms
from mmdet_eql.heads.roi_head import stages_of

#: Lowest score of a detection that counts.
_MIN_SCORE = 1e-7
#: Masks that are predicted at once.
_MASKS_AT_ONCE = 1000


@HOOKS.register_module()
class FixedAPTestHook(Hook):
    """In a test whose evaluator has ``fixed_ap`` or ``pooled_ap``, let through what can count.

    These are, of each image, the ``max_per_img`` best detections, and all whose score is above a
    threshold of their category. It begins at 1e-7 and rises as places among the best of the
    category are filled (``keep_best`` of the metric). Masks are computed of these detections alone,
    1,000 at once, and kept as RLE unless others take them: another metric, or who draws. Fixed AP
    and pooled AP are the same as from all detections, and AP is that of the ``max_per_img`` best of
    each image and ``score_thr=1e-7``.

    For another kind of model a warning says why it is tested as it is: the metrics are then of what
    its ``test_cfg`` lets through.

    Args:
        validation (bool): Whether to do so in the validations of a training, too, which otherwise
            keep the model's ``test_cfg``.
    """

    # After ClassListHook, which gives the evaluator its classes.
    priority = "HIGH"

    def __init__(self, validation: bool = False) -> None:
        self.validation = validation
        self._roi_head: nn.Module | None = None

    def before_test(self, runner: Runner) -> None:
        """Prepare the model, if a metric asks for it."""
        self._prepare(runner, runner.test_loop)

    def before_val(self, runner: Runner) -> None:
        """With ``validation``, prepare the model as for a test."""
        if self.validation:
            self._prepare(runner, runner.val_loop)

    def _prepare(self, runner: Runner, loop: Any) -> None:
        every = getattr(getattr(loop, "evaluator", None), "metrics", ())
        metrics = [
            metric
            for metric in every
            if getattr(metric, "fixed_ap", None) or getattr(metric, "pooled_ap", None)
        ]
        if not metrics:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        roi_head = getattr(model, "roi_head", None)
        problem = _problem(roi_head)
        if problem is not None:
            runner.logger.warning(
                f"Fixed AP and pooled AP are of what the model's test_cfg lets through: {problem}."
            )
            return
        box_head = stages_of(roi_head.bbox_head)[-1]
        max_per_img = roi_head.test_cfg.max_per_img
        thresholds = [one.keep_best(box_head.num_classes, max_per_img) for one in metrics]
        box_head.predict_by_feat = partial(_best_boxes, box_head.predict_by_feat, thresholds)
        if roi_head.with_mask:
            drawn = any(getattr(hook, "draw", False) for hook in runner.hooks)
            as_rle = len(metrics) == len(every) and not drawn
            roi_head.predict_mask = partial(_masks_in_parts, roi_head.predict_mask, as_rle)
        self._roi_head = roi_head

    def after_test(self, runner: Runner) -> None:
        """Leave the model as it was: the methods of its classes show again."""
        if self._roi_head is not None:
            del stages_of(self._roi_head.bbox_head)[-1].predict_by_feat
            vars(self._roi_head).pop("predict_mask", None)
            self._roi_head = None

    after_val = after_test


def _problem(roi_head: nn.Module | None) -> str | None:
    """Why a detector cannot have a threshold for each category; None if it can."""
    if roi_head is None or not getattr(roi_head, "with_bbox", False):
        return (
            "thresholds of categories are for two-stage detectors without test-time augmentation; "
            "raise 'max_per_img' there"
        )
    head = type(stages_of(roi_head.bbox_head)[-1])
    if getattr(head, "predict_by_feat", None) is not BBoxHead.predict_by_feat:
        return f"the box head {head.__name__} has its own way to detect"
    if hasattr(roi_head, "mask_iou_head"):
        return "its masks have scores of their own, which are not known before the masks"
    return None


def _best_boxes(
    predict_by_feat: Callable,
    thresholds: list[np.ndarray],
    *args: Any,
    rcnn_test_cfg: dict,
    **kwargs: Any,
) -> list[InstanceData]:
    """``predict_by_feat`` of a box head, which keeps what can count."""
    # Without a test_cfg, it returns the boxes and scores before NMS.
    of_images = predict_by_feat(*args, **kwargs, rcnn_test_cfg=None)
    lowest = torch.from_numpy(np.minimum.reduce(thresholds))
    detected = []
    for raw in of_images:
        dets, labels = raw.bboxes.new_zeros(0, 5), raw.bboxes.new_zeros(0, dtype=torch.int64)
        if len(raw.bboxes):
            dets, labels = multiclass_nms(
                raw.bboxes,
                raw.scores,
                min(rcnn_test_cfg.score_thr, _MIN_SCORE),
                rcnn_test_cfg.nms,
                rcnn_test_cfg.max_per_img,
                category_thr=lowest.to(raw.scores.device),
            )
        detected.append(InstanceData(bboxes=dets[:, :4], scores=dets[:, 4], labels=labels))
    return detected


def _masks_in_parts(
    predict_mask: Callable, as_rle: bool, *args: Any, **kwargs: Any
) -> list[InstanceData]:
    """``predict_mask`` of a RoI head, for a bounded number of detections at once."""
    call = inspect.signature(predict_mask).bind(*args, **kwargs)
    results = call.arguments["results_list"]
    step = max(1, _MASKS_AT_ONCE // len(results))
    parts = [[] for _ in results]
    for start in range(0, max(1, *map(len, results)), step):
        call.arguments["results_list"] = [result[start : start + step] for result in results]
        predicted = predict_mask(*call.args, **call.kwargs)
        for of_image, part in zip(parts, predicted, strict=True):
            if as_rle and isinstance(part.masks, torch.Tensor):
                part.masks = encode_mask_results(part.masks.cpu().numpy())
            if start == 0 or len(part):
                of_image.append(part)
    return [InstanceData.cat(of_image) for of_image in parts]
