"""Cascades with mask heads that compute one mask per RoI.

In training, mmdet's cascades hand what a mask head gives to that head's loss. In testing, they
average the masks of the stages before any labels come in. Here the labels of the detections travel
with the feature maps, which mmdet hands on unchanged, to where a stage's masks are computed.
"""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_eql.heads.selective_logits import SelectableLogits


class _LabelledFeatures(tuple):
    """Feature maps of all levels, with the labels (N,) of the RoIs to come."""

    labels: Tensor

    @classmethod
    def of(cls, x: Sequence[Tensor], results_list: list[InstanceData]) -> "_LabelledFeatures":
        features = cls(x)
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
        x = _LabelledFeatures.of(x, results_list)
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
        x = _LabelledFeatures.of(x, results_list)
        return super().predict_mask(
            x, semantic_heat, batch_img_metas, results_list, rescale=rescale
        )
