"""Test-time augmentation of boxes and masks.

MMDetection's ``DetTTAModel`` merges boxes. Here the masks of the merged boxes are predicted in each
view and averaged, cell by cell, before they are pasted into the image once. Boxes go in and out of
a view in pixels of the original images: it knows how its images were resized and flipped.

Glossary:
    B: number of images of the batch.
    N: number of boxes of all its images together.
    h, w: height and width of a mask in cells.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, bbox_flip
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.heads.mask_head import (
    SelectableLogits,
    SelectiveMaskCascadeRoIHead,
    SelectiveMaskHTCRoIHead,
)
from mmdet_eql.heads.roi_head import semantic_features, stages_of
from mmdet_eql.utils.errors import UserError

_FLIPPED_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Averages a two-stage detector over resized and flipped views of each image.

    Boxes of all views go through one class-wise NMS, as in ``DetTTAModel``; scores stay those of
    the view that a box comes from. Whatever the classifier is, its scores enter as in plain
    testing. Then every view's mask head sees the boxes that are left, and the masks of all views
    (and stages of a cascade) are averaged.

    Works for Faster and Mask R-CNN, Cascade (Mask) R-CNN and HTC, with class-agnostic and
    class-specific masks and with the selective mask heads; another detector is a UserError. The
    feature maps of all views are in memory at the same time.

    In a config it is ``tta_model = dict(type="InstanceTTAModel")``; then tools/test.py --tta.

    Args:
        module (dict | nn.Module): The detector.
        tta_cfg (dict, optional): ``nms`` and ``max_per_img`` of the merged boxes. By default those
            of the detector's ``test_cfg.rcnn``.
        **kwargs: Those of ``DetTTAModel``.
    """

    def __init__(
        self, module: dict | nn.Module, tta_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(module=module, tta_cfg=tta_cfg, **kwargs)
        refuse_unsupported(self.module)
        if tta_cfg is None:
            self.tta_cfg = self.module.test_cfg.rcnn

    def test_step(self, data: dict) -> SampleList:
        """Predict a batch from V views: ``inputs`` and ``data_samples``, each V lists of B.

        Return B data samples with ``pred_instances`` in pixels of the original images: ``bboxes``,
        ``scores`` and ``labels``, and with a mask head ``masks`` as it gives them.
        """
        views = [
            View(self.module, {key: value[index] for key, value in data.items()})
            for index in range(len(data["inputs"]))
        ]
        boxes_of_views = [view.predict_boxes() for view in views]
        samples = self.merge_preds(list(zip(*boxes_of_views, strict=True)))
        if self.module.roi_head.with_mask:
            self._add_masks(samples, views)
        return samples

    def _add_masks(self, samples: SampleList, views: list["View"]) -> None:
        instances = [sample.pred_instances for sample in samples]
        bboxes = [item.bboxes for item in instances]
        labels = torch.cat([item.labels for item in instances])
        if len(labels):
            masks = sum(view.predict_masks(bboxes, labels) for view in views) / len(views)
        else:
            masks = bboxes[0].new_zeros(0, 1, 1, 1)
        roi_head = self.module.roi_head
        # There is one mask per box left: whatever its label, it is in channel 0.
        results = [
            InstanceData(bboxes=boxes, labels=boxes.new_zeros(len(boxes), dtype=torch.int64))
            for boxes in bboxes
        ]
        metas = [dict(ori_shape=sample.ori_shape, scale_factor=(1.0, 1.0)) for sample in samples]
        pasted = stages_of(roi_head.mask_head)[-1].predict_by_feat(
            mask_preds=masks.split([len(boxes) for boxes in bboxes]),
            results_list=results,
            batch_img_metas=metas,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
            activate_map=True,  # they are probabilities
        )
        for item, with_masks in zip(instances, pasted, strict=True):
            item.masks = with_masks.masks


class View:
    """The feature maps of a view, from which boxes and masks are predicted.

    Args:
        detector (TwoStageDetector): A detector that :func:`refuse_unsupported` lets pass.
        data (dict): ``inputs`` and ``data_samples`` of the B images, as a dataloader gives them; a
            UserError if they do not say whether their images were flipped.
    """

    def __init__(self, detector: TwoStageDetector, data: dict) -> None:
        data = detector.data_preprocessor(data, False)
        self._detector = detector
        self._roi_head = detector.roi_head
        self._samples: SampleList = data["data_samples"]
        self._metas = [sample.metainfo for sample in self._samples]
        if any("flip" not in meta for meta in self._metas):
            raise UserError(
                "tta_pipeline: the data samples do not say whether their image was flipped; add "
                "dict(type='RandomFlip', prob=0.0) if there is no RandomFlip, and 'flip' and "
                "'flip_direction' to the meta_keys of PackDetInputs."
            )
        self._features = detector.extract_feat(data["inputs"])
        self._semantic = semantic_features(self._roi_head, self._features)

    def predict_boxes(self) -> SampleList:
        """Return B data samples, whose ``pred_instances`` have ``bboxes``, ``scores`` and
        ``labels``, in pixels of the original images, but flipped as the view is."""
        proposals = self._detector.rpn_head.predict(self._features, self._samples, rescale=False)
        results = self._roi_head.predict_bbox(
            x=self._features,
            batch_img_metas=self._metas,
            rpn_results_list=proposals,
            rcnn_test_cfg=self._roi_head.test_cfg,
            rescale=True,
            **self._semantic,
        )
        return self._detector.add_pred_to_datasample(self._samples, results)

    def predict_masks(self, bboxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return masks as probabilities, float32 of shape (N, 1, h, w), as the original images lie.

        Args:
            bboxes (Sequence[Tensor]): Of each image, boxes x1, y1, x2, y2 in pixels of the original
                image, shape (n, 4); N > 0 in all.
            labels (Tensor): Their labels, int64 of shape (N,).
        """
        in_view = [_to_view(boxes, meta) for boxes, meta in zip(bboxes, self._metas, strict=True)]
        stages = _mask_logits(self._roi_head, self._features, bbox2roi(in_view), self._semantic)
        masks = sum(_of_category(logits, labels).float().sigmoid() for logits in stages)
        masks = (masks / len(stages)).split([len(boxes) for boxes in bboxes])
        unflipped = [
            part.flip(_FLIPPED_AXES[meta["flip_direction"]]) if meta["flip"] else part
            for part, meta in zip(masks, self._metas, strict=True)
        ]
        return torch.cat(unflipped)


#: How the RoI heads predict whose boxes and masks a view can predict, too.
_KNOWN_PREDICTIONS = {
    (roi_head.predict, roi_head.predict_mask)
    for roi_head in (
        StandardRoIHead,
        CascadeRoIHead,
        HybridTaskCascadeRoIHead,
        SelectiveMaskCascadeRoIHead,
        SelectiveMaskHTCRoIHead,
    )
}


def refuse_unsupported(detector: nn.Module) -> None:
    """Raise a UserError unless a detector has an RPN and the RoI head of Mask R-CNN, Cascade Mask
    R-CNN or HTC (without masks: Faster and Cascade R-CNN)."""
    roi_head = getattr(detector, "roi_head", None)
    if not isinstance(detector, TwoStageDetector) or not detector.with_rpn or roi_head is None:
        raise UserError(
            f"tta_model: InstanceTTAModel augments two-stage detectors with an RPN, and the model "
            f"is a {type(detector).__name__}; use tta_model.type='DetTTAModel' for its boxes."
        )
    kind = type(roi_head)
    if (kind.predict, getattr(kind, "predict_mask", None)) not in _KNOWN_PREDICTIONS:
        raise UserError(
            f"tta_model: InstanceTTAModel knows the RoI heads of Mask R-CNN, Cascade Mask R-CNN "
            f"and HTC, and roi_head.type is {kind.__name__}; test without --tta."
        )


def _to_view(boxes: Tensor, meta: dict) -> Tensor:
    boxes = boxes * boxes.new_tensor(meta["scale_factor"]).repeat(2)
    if meta["flip"]:
        boxes = bbox_flip(boxes, meta["img_shape"], meta["flip_direction"])
    return boxes


def _of_category(logits: Tensor | SelectableLogits, labels: Tensor) -> Tensor:
    """The mask of each RoI's category, shape (N, 1, h, w)."""
    if isinstance(logits, SelectableLogits):
        return logits.select(labels)
    if logits.size(1) == 1:  # class-agnostic
        return logits
    return logits[torch.arange(len(labels), device=labels.device), labels].unsqueeze(1)


def _mask_logits(
    roi_head: nn.Module, x: Sequence[Tensor], rois: Tensor, semantic: dict
) -> list[Tensor | SelectableLogits]:
    """The mask logits of each stage."""
    if isinstance(roi_head, HybridTaskCascadeRoIHead):
        # The last stage runs the ones before it, whose features it reads.
        return roi_head._mask_forward(-1, x, rois, training=False, **semantic)["mask_preds"]
    if isinstance(roi_head, CascadeRoIHead):
        stages = range(roi_head.num_stages)
        return [roi_head._mask_forward(stage, x, rois)["mask_preds"] for stage in stages]
    return [roi_head._mask_forward(x, rois)["mask_preds"]]
