"""Mask heads that compute one mask per RoI, however many categories there are, and their cascades.

A class-specific mask head of mmdet ends in a 1x1 convolution with one output channel per category:
with LVIS it computes 1,230 masks for every RoI, of which loss and prediction read one. Here that
convolution waits until the labels are known, and applies one row of its weights to each RoI. The
heads have the same parameters and give the same losses, gradients and masks, at the cost of a
class-agnostic head.

    mask features (N, D, h, w) --labels--> logits (N, 1, h, w) -> loss
                                                               -> masks, or their RLE

In testing, mmdet's cascades average the masks of the stages before any labels come in. Here the
labels of the detections travel with the feature maps, which mmdet hands on unchanged, to where a
stage's masks are computed.

Glossary:
    N, C: number of RoIs and of categories.
    D: number of channels that the last convolution reads.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from mmdet.models.layers import NormedConv2d
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as CONV_LAYERS  # where mmcv looks convolutions up
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.heads.mask_pasting import paste_as_rle
from mmdet_eql.utils.errors import UserError

_SELECTIVE_PREDICTORS = {
    "Conv": "SelectiveConv2d",
    "Conv2d": "SelectiveConv2d",
    "NormedConv2d": "SelectiveNormedConv2d",
}


class SelectableLogits:
    """The logits (N, C, h, w) of a 1x1 convolution, which exist only for labels that are asked for.

    It can be split by RoIs, as RoI heads do to go from batch to images. All else that a tensor
    could do raises a UserError: code that expects all C channels must not get something else.

    Args:
        features (Tensor): What the convolution reads, shape (N, D, h, w).
        weight (Tensor): Its weight, shape (C, D, 1, 1).
        bias (Tensor, optional): Its bias, shape (C,).

    Example:
        >>> conv = nn.Conv2d(8, 5, 1)
        >>> features, labels = torch.rand(3, 8, 2, 2), torch.tensor([4, 0, 4])
        >>> logits = SelectableLogits(features, conv.weight, conv.bias).select(labels)
        >>> torch.allclose(logits[:, 0], conv(features)[range(3), labels], atol=1e-6)
        True
    """

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._features = features
        self._weight = weight
        self._bias = bias

    def select(self, labels: Tensor) -> Tensor:
        """Return the logits (N, 1, h, w) of one channel of each RoI, labels int64 of shape (N,)."""
        weight = self._weight[labels].flatten(start_dim=1).unsqueeze(1)
        logits = torch.bmm(weight, self._features.flatten(start_dim=2))
        if self._bias is not None:
            logits = logits + self._bias[labels][:, None, None]
        return logits.unflatten(2, self._features.shape[2:])

    def split(self, sizes: Sequence[int], dim: int = 0) -> tuple["SelectableLogits", ...]:
        """Split by RoIs, as ``Tensor.split`` with ``dim=0``."""
        if dim != 0:
            self._refuse(f"split(dim={dim})")
        parts = self._features.split(sizes, dim=0)
        return tuple(SelectableLogits(part, self._weight, self._bias) for part in parts)

    def __getattr__(self, name: str) -> NoReturn:
        # Python asks every object for its optional protocols (copying, pickling) by such names.
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse(name)

    def __getitem__(self, index: Any) -> NoReturn:
        self._refuse("indexing")

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            "A selective mask head computes the logits of each RoI's own category alone, but its "
            f"RoI head asks for those of all categories ({what}); set roi_head.type to "
            "'SelectiveMaskCascadeRoIHead' or 'SelectiveMaskHTCRoIHead' for a cascade, or else "
            "mask_head.type to mmdet's own mask head."
        )


@CONV_LAYERS.register_module()
class SelectiveConv2d(nn.Conv2d):
    """A 1x1 ``nn.Conv2d`` whose output is :class:`SelectableLogits`."""

    def _conv_forward(self, *args: Tensor) -> SelectableLogits:
        return SelectableLogits(*args)


@CONV_LAYERS.register_module()
class SelectiveNormedConv2d(NormedConv2d):
    """A 1x1 ``NormedConv2d`` of mmdet whose output is :class:`SelectableLogits`."""

    _conv_forward = SelectiveConv2d._conv_forward


class SelectiveMaskHeadMixin:
    """Makes a mask head of mmdet compute the mask of each RoI's category alone.

    Inherited before the mask head. ``forward`` returns :class:`SelectableLogits` where mmdet's
    returns a tensor. ``StandardRoIHead`` works with it; a cascade has to be a
    ``SelectiveMaskCascadeRoIHead`` or ``SelectiveMaskHTCRoIHead``. Checkpoints of mmdet's head and
    of this one load into each other.

    Args:
        class_agnostic (bool): Whether one mask serves all categories; the head is then mmdet's.
        predictor_cfg (dict, optional): The last convolution, of type 'Conv' or 'NormedConv2d'; a
            UserError otherwise.
        masks_as_rle (bool): Whether predicted masks are a list of COCO RLEs (``size`` and
            ``counts`` as pycocotools writes them) instead of a bool tensor (N, H, W), with the same
            pixels. ``LVISFastMetric``, ``RLEDetLocalVisualizer`` and mmdet's ``CocoMetric`` take
            them; mmdet's ``LVISMetric``, ``DumpDetResults`` and ``DetLocalVisualizer`` do not. The
            masks of an image without detections, and soft masks (``mask_thr_binary`` below 0), stay
            mmdet's tensors.
        **kwargs: Those of the mask head.
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
    """mmdet's ``FCNMaskHead``, computing one mask per RoI; see :class:`SelectiveMaskHeadMixin`."""


@MODELS.register_module()
class SelectiveHTCMaskHead(SelectiveMaskHeadMixin, HTCMaskHead):
    """mmdet's ``HTCMaskHead``, computing one mask per RoI; see :class:`SelectiveMaskHeadMixin`."""


class _LabelledFeatures(tuple):
    """Feature maps of all levels, with the labels (N,) of the RoIs to come."""

    def __new__(cls, x: Sequence[Tensor], results_list: list[InstanceData]):
        features = super().__new__(cls, x)
        features.labels = torch.cat([results.labels for results in results_list])
        return features


def _select(mask_results: dict, x: Sequence[Tensor]) -> dict:
    """Replace selectable logits by those of the labels that came with the feature maps."""
    if not isinstance(x, _LabelledFeatures):
        return mask_results

    def selected(mask_preds: SelectableLogits | Tensor | list) -> Tensor | list:
        if isinstance(mask_preds, list):  # of HTC
            return [selected(item) for item in mask_preds]
        selectable = isinstance(mask_preds, SelectableLogits)
        return mask_preds.select(x.labels) if selectable else mask_preds

    return {**mask_results, "mask_preds": selected(mask_results["mask_preds"])}


@MODELS.register_module()
class SelectiveMaskCascadeRoIHead(CascadeRoIHead):
    """mmdet's ``CascadeRoIHead`` for mask heads of type ``SelectiveFCNMaskHead``."""

    def _mask_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor) -> dict:
        return _select(super()._mask_forward(stage, x, rois), x)

    def predict_mask(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """As ``CascadeRoIHead.predict_mask``."""
        x = _LabelledFeatures(x, results_list)
        return super().predict_mask(x, batch_img_metas, results_list, rescale=rescale)


@MODELS.register_module()
class SelectiveMaskHTCRoIHead(HybridTaskCascadeRoIHead):
    """mmdet's ``HybridTaskCascadeRoIHead`` for mask heads of type ``SelectiveHTCMaskHead``."""

    def _mask_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor, **kwargs) -> dict:
        return _select(super()._mask_forward(stage, x, rois, **kwargs), x)

    def predict_mask(
        self,
        x: Sequence[Tensor],
        semantic_heat: Tensor | None,
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """As ``HybridTaskCascadeRoIHead.predict_mask``."""
        x = _LabelledFeatures(x, results_list)
        return super().predict_mask(
            x, semantic_heat, batch_img_metas, results_list, rescale=rescale
        )
