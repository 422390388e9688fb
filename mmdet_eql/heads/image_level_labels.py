"""Image-level labels on their way from the ground truth to the loss of each proposal.

In mmdet's Standard, Cascade and HTC RoI heads, the sampling results of the images of a batch are
what reaches every box head. The sampler here adds each image's verified categories to its sampling
result, and the box head gives every proposal those of its own image:

    gt_instances.verified_labels -> SamplingResult.verified_labels -> verified (N, C) -> loss

``verified`` says whether the image of proposal r, of N, is known to contain, or not to contain,
category j, of C (EQL paper, section 4.2).
"""

import torch
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.task_modules.samplers import RandomSampler, SamplingResult
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_eql.utils.errors import UserError


@TASK_UTILS.register_module()
class ImageLevelLabelSampler(RandomSampler):
    """mmdet's ``RandomSampler`` that passes an image's verified categories on."""

    def sample(
        self, assign_result, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs
    ) -> SamplingResult:
        """Sample as ``RandomSampler``; the result gets the attribute ``verified_labels``, and a
        ground truth without it is a UserError."""
        if "verified_labels" not in gt_instances.metainfo_keys():
            raise UserError(
                "ImageLevelLabelSampler: the ground truth has no image-level labels; end the "
                "training pipeline with dict(type='PackLVISInputs')."
            )
        result = super().sample(assign_result, pred_instances, gt_instances, **kwargs)
        result.verified_labels = gt_instances.verified_labels
        return result


def verified_categories(sampling_results: list[SamplingResult], num_classes: int) -> Tensor:
    """Return which categories are verified for each proposal, boolean of shape (N, C), in the order
    of the box head's labels; a UserError if the sampler did not pass image-level labels on."""
    rows = []
    for result in sampling_results:
        if not hasattr(result, "verified_labels"):
            raise UserError(
                "loss_cls.image_level_labels is on, but the sampler passes no image-level labels; "
                "set train_cfg.rcnn.sampler.type to 'ImageLevelLabelSampler' (in a cascade, in "
                "each stage)."
            )
        verified = result.pos_priors.new_zeros(num_classes, dtype=torch.bool)
        verified[result.verified_labels.to(verified.device)] = True
        rows.append(verified.expand(len(result.pos_priors) + len(result.neg_priors), -1))
    return torch.cat(rows)


class ImageLevelLabelHeadMixin:
    """Makes a box head of mmdet give its loss the verified categories of each proposal.

    Inherited before the box head. Used if ``loss_cls.image_level_labels`` is on.
    """

    passes_image_level_labels = True  #: For the check of :mod:`mmdet_eql.losses.head_contract`.

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg: dict,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """As ``BBoxHead.loss_and_target``."""
        if not getattr(self.loss_cls, "image_level_labels", False):
            return super().loss_and_target(
                cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat,
                reduction_override,
            )  # fmt: skip
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=concat)
        # Without logits, the box head gives its regression loss alone.
        losses = self.loss(None, bbox_pred, rois, *targets, reduction_override=reduction_override)
        labels, label_weights = targets[:2]
        verified = verified_categories(sampling_results, self.num_classes)
        losses |= self.verified_loss(cls_score, labels, label_weights, verified, reduction_override)
        return dict(loss_bbox=losses, bbox_targets=targets)

    def verified_loss(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        verified: Tensor,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """Return the classification loss and the accuracy, with the verified categories (N, C) of
        the proposals; empty without proposals."""
        if cls_score.numel() == 0:
            return {}
        loss = self.loss_cls(
            cls_score,
            labels,
            label_weights,
            avg_factor=max((label_weights > 0).sum().item(), 1),
            reduction_override=reduction_override,
            verified=verified,
        )
        return {"loss_cls": loss, **self.loss_cls.get_accuracy(cls_score, labels)}


@MODELS.register_module()
class ImageLevelShared2FCBBoxHead(ImageLevelLabelHeadMixin, Shared2FCBBoxHead):
    """mmdet's ``Shared2FCBBoxHead`` with image-level labels."""
