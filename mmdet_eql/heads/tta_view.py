"""One augmented view of a batch of images, as a two-stage detector sees it.

Boxes go in and out in pixels of the original images: a view knows how its images were resized and
flipped.

Glossary:
    B: number of images of the batch.
    N: number of boxes of all its images together.
    h, w: height and width of a mask in cells.
"""

from collections.abc import Callable, Sequence

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, bbox_flip
from torch import Tensor, nn

from mmdet_eql.heads.mask_cascade import SelectiveMaskCascadeRoIHead, SelectiveMaskHTCRoIHead
from mmdet_eql.heads.selective_logits import SelectableLogits
from mmdet_eql.utils.errors import UserError

_FLIPPED_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


class View:
    """The feature maps of a view, from which boxes and masks are predicted.

    They are kept until the masks are, so that the backbone sees each view once.

    Args:
        detector (TwoStageDetector): A detector that :func:`refuse_unsupported` lets pass.
        data (dict): ``inputs`` and ``data_samples`` of the B images, as a dataloader gives them.

    Raises:
        UserError: If the data samples do not say whether their images were flipped.
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
        # HTC's heads read the features of its semantic branch, too.
        self._semantic = {}
        if isinstance(self._roi_head, HybridTaskCascadeRoIHead):
            with_semantic = self._roi_head.with_semantic
            features = self._roi_head.semantic_head(self._features)[1] if with_semantic else None
            self._semantic = dict(semantic_feat=features)

    def predict_boxes(self) -> SampleList:
        """Detect boxes.

        Returns:
            SampleList: B data samples whose ``pred_instances`` have ``bboxes``, ``scores`` and
            ``labels``. The boxes are in pixels of the original images, but flipped as the view is.
        """
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
        """Predict the masks of given boxes.

        Args:
            bboxes (Sequence[Tensor]): Of each image, boxes x1, y1, x2, y2 in pixels of the original
                image, shape (n, 4); N > 0 in all.
            labels (Tensor): Their labels, int64 of shape (N,).

        Returns:
            Tensor: Probabilities, float32 of shape (N, 1, h, w), as the original images lie.
        """
        in_view = [_to_view(boxes, meta) for boxes, meta in zip(bboxes, self._metas, strict=True)]
        stages = _mask_logits_of(self._roi_head)(
            self._roi_head, self._features, bbox2roi(in_view), **self._semantic
        )
        masks = sum(_of_category(logits, labels).float().sigmoid() for logits in stages)
        masks = (masks / len(stages)).split([len(boxes) for boxes in bboxes])
        unflipped = [
            part.flip(_FLIPPED_AXES[meta["flip_direction"]]) if meta["flip"] else part
            for part, meta in zip(masks, self._metas, strict=True)
        ]
        return torch.cat(unflipped)


def refuse_unsupported(detector: nn.Module) -> None:
    """Refuse a detector whose boxes or masks come about in another way than a view's do.

    Raises:
        UserError: If it is not a two-stage detector with an RPN, or has another kind of RoI head
            than Mask R-CNN, Cascade Mask R-CNN and HTC (without masks: Faster and Cascade R-CNN).
    """
    roi_head = getattr(detector, "roi_head", None)
    if not isinstance(detector, TwoStageDetector) or not detector.with_rpn or roi_head is None:
        raise UserError(
            f"tta_model: InstanceTTAModel augments two-stage detectors with an RPN, and the model "
            f"is a {type(detector).__name__}; use tta_model.type='DetTTAModel' for its boxes."
        )
    if _definer(roi_head, "predict") not in (BaseRoIHead, HybridTaskCascadeRoIHead):
        _refuse_roi_head(roi_head)
    if roi_head.with_mask:
        _mask_logits_of(roi_head)


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


# --- the mask logits of each kind of RoI head, one tensor per stage -------------------------------


def _standard_logits(roi_head: StandardRoIHead, x: Sequence[Tensor], rois: Tensor) -> list:
    return [roi_head._mask_forward(x, rois)["mask_preds"]]


def _cascade_logits(roi_head: CascadeRoIHead, x: Sequence[Tensor], rois: Tensor) -> list:
    return [
        roi_head._mask_forward(stage, x, rois)["mask_preds"] for stage in range(roi_head.num_stages)
    ]


def _htc_logits(
    roi_head: HybridTaskCascadeRoIHead,
    x: Sequence[Tensor],
    rois: Tensor,
    semantic_feat: Tensor | None,
) -> list:
    # The last stage runs the ones before it, whose features it reads.
    return roi_head._mask_forward(-1, x, rois, semantic_feat=semantic_feat, training=False)[
        "mask_preds"
    ]


#: By the class whose ``predict_mask`` a RoI head has: one that another class redefines may do
#: something else.
_MASK_LOGITS = {
    StandardRoIHead: _standard_logits,
    CascadeRoIHead: _cascade_logits,
    SelectiveMaskCascadeRoIHead: _cascade_logits,
    HybridTaskCascadeRoIHead: _htc_logits,
    SelectiveMaskHTCRoIHead: _htc_logits,
}


def _mask_logits_of(roi_head: BaseRoIHead) -> Callable[..., list]:
    logits = _MASK_LOGITS.get(_definer(roi_head, "predict_mask"))
    return logits or _refuse_roi_head(roi_head)


def _definer(part: nn.Module, method: str) -> type | None:
    """The class that a method of an object comes from."""
    return next((owner for owner in type(part).__mro__ if method in vars(owner)), None)


def _refuse_roi_head(roi_head: BaseRoIHead) -> None:
    raise UserError(
        f"tta_model: InstanceTTAModel knows the RoI heads of Mask R-CNN, Cascade Mask R-CNN and "
        f"HTC, and roi_head.type is {type(roi_head).__name__}; test without --tta."
    )
