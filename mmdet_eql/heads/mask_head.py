"""Mask heads that compute one mask per RoI, however many categories there are.

A class-specific mask head of mmdet computes a mask of every category for every RoI: with LVIS,
1,230 masks, of which loss and prediction read one. The heads here have the same parameters and give
the same losses, gradients and masks, at the cost of a class-agnostic head.

    mask features (N, D, h, w) --labels--> logits (N, 1, h, w) -> loss
                                                               -> masks, or their RLE
"""

from typing import Any

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_eql.heads.mask_pasting import paste_as_rle
from mmdet_eql.heads.selective_logits import SelectableLogits
from mmdet_eql.utils.errors import UserError

_SELECTIVE_PREDICTORS = {
    "Conv": "SelectiveConv2d",
    "Conv2d": "SelectiveConv2d",
    "NormedConv2d": "SelectiveNormedConv2d",
}


class SelectiveMaskHeadMixin:
    """Makes a mask head of mmdet compute the mask of each RoI's category alone.

    Inherited before the mask head. ``forward`` returns :class:`SelectableLogits` where mmdet's
    returns a tensor; the labels of the RoIs are given with the loss and with the detections. With
    ``class_agnostic=True`` the head is mmdet's. ``StandardRoIHead`` works with it; a cascade
    averages the masks of its stages and needs ``SelectiveMaskCascadeRoIHead`` or
    ``SelectiveMaskHTCRoIHead``.

    Args:
        class_agnostic (bool): Whether one mask serves all categories.
        predictor_cfg (dict, optional): The last convolution, of type 'Conv' or 'NormedConv2d'.
        masks_as_rle (bool): Whether predicted masks are a list of COCO RLEs (``size`` and
            ``counts`` as pycocotools writes them) instead of a bool tensor (N, H, W), with the same
            pixels. ``LVISFastMetric``, ``RLEDetLocalVisualizer`` and mmdet's ``CocoMetric`` take
            them; mmdet's ``LVISMetric``, ``DumpDetResults`` and ``DetLocalVisualizer`` do not. The
            masks of an image without detections, and soft masks (``mask_thr_binary`` below 0), stay
            mmdet's tensors.
        **kwargs: Those of the mask head.

    Raises:
        UserError: If the last convolution is of another type.
    """

    def __init__(
        self,
        class_agnostic: bool = False,
        predictor_cfg: dict | None = None,
        masks_as_rle: bool = False,
        **kwargs: Any,
    ) -> None:
        predictor_cfg = predictor_cfg or dict(type="Conv")
        if not class_agnostic:
            predictor_cfg = _selective_predictor(predictor_cfg, type(self).__name__)
        super().__init__(class_agnostic=class_agnostic, predictor_cfg=predictor_cfg, **kwargs)
        self.masks_as_rle = masks_as_rle

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> SelectableLogits | Tensor | list:
        """As the mask head's, with :class:`SelectableLogits` in place of logits."""
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            # In this layout oneDNN takes half the time for the convolutions, but not for gradients.
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x, *args, **kwargs)

    def loss_and_target(
        self,
        mask_preds: SelectableLogits | Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """As ``FCNMaskHead.loss_and_target``."""
        if not isinstance(mask_preds, SelectableLogits):
            return super().loss_and_target(
                mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg
            )
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        logits = mask_preds.select(labels)
        # Without RoIs, a zero that reaches all parameters, which distributed training waits for.
        loss = (
            self.loss_mask(logits, targets, torch.zeros_like(labels))
            if len(labels)
            else logits.sum()
        )
        return dict(loss_mask=dict(loss_mask=loss), mask_targets=targets)

    def _predict_by_feat_single(
        self,
        mask_preds: SelectableLogits | Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor | list[dict]:
        """As ``FCNMaskHead._predict_by_feat_single``, or a list of RLEs."""
        if isinstance(mask_preds, SelectableLogits):
            mask_preds = mask_preds.select(labels)
        if mask_preds.size(1) == 1:
            labels = torch.zeros_like(labels)
        if not self.masks_as_rle or rcnn_test_cfg.mask_thr_binary < 0:
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        probabilities = mask_preds[range(len(labels)), labels]
        if not activate_map:
            probabilities = probabilities.sigmoid()
        height, width = img_meta["ori_shape"][:2]
        scale_factor = bboxes.new_tensor(img_meta["scale_factor"])
        if rescale:
            bboxes /= scale_factor.repeat(2)  # in place, as mmdet: the results hold this tensor
        else:
            width_scale, height_scale = scale_factor.tolist()
            height, width = round(height * height_scale), round(width * width_scale)
        return paste_as_rle(probabilities, bboxes, (height, width), rcnn_test_cfg.mask_thr_binary)


def _selective_predictor(predictor_cfg: dict, head: str) -> dict:
    predictor = predictor_cfg["type"]
    name = predictor if isinstance(predictor, str) else predictor.__name__
    selective = _SELECTIVE_PREDICTORS.get(name.removeprefix("mmdet."))
    if selective is None:
        raise UserError(
            f"{head}: predictor_cfg.type is {name!r}, of which single channels cannot be computed; "
            "use 'Conv' or 'NormedConv2d', or mmdet's own mask head."
        )
    return {**predictor_cfg, "type": selective}


@MODELS.register_module()
class SelectiveFCNMaskHead(SelectiveMaskHeadMixin, FCNMaskHead):
    """mmdet's ``FCNMaskHead``, computing one mask per RoI; see :class:`SelectiveMaskHeadMixin`.

    Checkpoints of either head load into the other.
    """


@MODELS.register_module()
class SelectiveHTCMaskHead(SelectiveMaskHeadMixin, HTCMaskHead):
    """mmdet's ``HTCMaskHead``, computing one mask per RoI; see :class:`SelectiveMaskHeadMixin`."""
