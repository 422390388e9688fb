"""Equalization Loss (EQL).

For a rare category every positive of another category is a negative, and these discouraging
gradients outweigh its few encouraging ones. EQL leaves them out:

    L = - sum_j w_j [y_j log p_j + (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j),
    w_j = 1 - E(r) T(f_j) (1 - y_j)

(arXiv 2003.05176, equations 3 and 4). E(r) is 1 for a foreground proposal and 0 for background, so
that background still pushes every category down; T(f) marks the tail.

Glossary:
    N: number of proposals (RoIs) of a batch.
    C: number of foreground categories.
    cls_score: z, logits of shape (N, C).
    labels: int64 of shape (N,), in [0, C); C means background.
    frequency: f_j, the share of the training images that contain category j, shape (C,).
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.class_statistics import FrequencyAware
from mmdet_eql.losses.classifier import full_precision
from mmdet_eql.losses.fused_equalization import fused_equalization_loss
from mmdet_eql.losses.reduction import check_reduction, reduce_rows
from mmdet_eql.losses.sigmoid_classifier import SigmoidClassifierLoss, one_hot_targets
from mmdet_eql.losses.tail_weighting import (
    CheckedTail,
    ThresholdTail,
    build_tail_weighting,
)
from mmdet_eql.utils.errors import UserError

#: lambda of the paper for LVIS v0.5: its tail is then the rare and the common categories.
DEFAULT_LAMBDA = 1.76e-3


def check_lambda(lambda_: float) -> None:
    """Refuse a threshold that is not a frequency.

    Raises:
        UserError: If it is not in [0, 1].
    """
    if lambda_ is None or not 0 <= lambda_ <= 1:
        raise UserError(
            f"loss_cls.lambda_ is {lambda_}; it is a frequency (images of a category over all "
            "images) and must lie between 0 and 1."
        )


def exclude_background_rows(labels: Tensor, num_classes: int) -> Tensor:
    """E(r): 1 for a foreground proposal, 0 for a background one.

    Args:
        labels (Tensor): Labels of shape (N,).
        num_classes (int): C.

    Returns:
        Tensor: Boolean of shape (N,).
    """
    return labels < num_classes


def equalization_loss(
    cls_score: Tensor,
    labels: Tensor,
    tail: Tensor,
    excluded: Tensor,
    verified: Tensor | None = None,
) -> Tensor:
    """The loss of each proposal, summed over the categories (equation 3).

    As the equation reads. :func:`~mmdet_eql.losses.fused_equalization.fused_equalization_loss`
    computes the same faster.

    Args:
        cls_score (Tensor): Logits of shape (N, C), float.
        labels (Tensor): Labels of shape (N,).
        tail (Tensor): T(f_j), shape (C,).
        excluded (Tensor): E(r), boolean of shape (N,).
        verified (Tensor, optional): Whether the image of a proposal is known to contain, or known
            not to contain, a category; there the weight is 1. Boolean of shape (N, C).

    Returns:
        Tensor: Loss of shape (N,), float32, or float64 for float64 logits.
    """
    logits = full_precision(cls_score)
    targets = one_hot_targets(labels, logits.shape[1], logits.dtype)
    spared = excluded.to(logits.dtype)[:, None] * tail.to(logits.dtype) * (1 - targets)
    if verified is not None:
        spared = spared.masked_fill(verified, 0)
    losses = F.binary_cross_entropy_with_logits(logits, targets, 1 - spared, reduction="none")
    return losses.sum(dim=1)


@MODELS.register_module()
class EqualizationLoss(FrequencyAware, SigmoidClassifierLoss):
    """Equalization Loss for the box heads of mmdet.

    The frequencies are handed over once, before training, and live in a persistent buffer: a
    checkpoint evaluates without the training annotations and resumes with the same tail.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        lambda_ (float, optional): Frequency below which a category belongs to the tail. 0 makes
            the plain sigmoid baseline, which needs no frequencies.
        exclude_background (bool): Whether background proposals keep pushing tail categories down,
            i.e. whether E(r) is used. Without it E(r) = 1 for every proposal.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the proposals; over the
            categories the loss is always summed.
        loss_weight (float): Factor on the loss.
        tail_weighting (dict, optional): Another T(f) than the threshold at ``lambda_``, which it
            replaces, built from the registry ``TASK_UTILS``: see
            :mod:`mmdet_eql.losses.tail_weighting`.
        image_level_labels (bool): Whether a tail category keeps its negative gradient in images
            that are verified to contain it or not to contain it (section 4.2). It takes a box head
            and a sampler that pass image-level labels on: see
            :mod:`mmdet_eql.heads.image_level_labels`. The official code leaves this out.
        fused (bool): Whether to take the gradient that is written out in
            :mod:`mmdet_eql.losses.fused_equalization`, which saves time and memory, instead of
            autograd's. Second derivatives and ``torch.func`` need autograd's.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> loss = EqualizationLoss(num_classes=3, lambda_=0.1)
        >>> loss.set_class_frequency(torch.tensor([0.5, 0.2, 0.01]))
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 3]))  # a positive, a background
        >>> torch.isclose(value, torch.tensor(2.5) * torch.log(torch.tensor(2.0)))
        tensor(True)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        lambda_: float | None = DEFAULT_LAMBDA,
        exclude_background: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        tail_weighting: dict | None = None,
        image_level_labels: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__(num_classes)
        if tail_weighting is None:
            check_lambda(lambda_)
            tail_weighting = ThresholdTail(lambda_)
        else:
            lambda_ = None
        self.lambda_ = lambda_
        self.tail_weighting = build_tail_weighting(tail_weighting)
        self.checked_tail = CheckedTail(self.tail_weighting)
        self.exclude_background = exclude_background
        self.image_level_labels = image_level_labels
        self.fused = fused
        self.reduction = check_reduction(reduction)
        self.loss_weight = loss_weight

    def tail_weights(self) -> Tensor:
        """T(f_j) of each category.

        Returns:
            Tensor: Shape (C,), float64, in [0, 1].

        Raises:
            UserError: If the loss needs frequencies and has none, or ``tail_weighting`` returns
                something else than a weight in [0, 1] per category.
        """
        if self.lambda_ == 0:
            return torch.zeros_like(self.class_frequency)
        return self.checked_tail(self.known_class_frequency())

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        verified: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            cls_score (Tensor): Logits of shape (N, C).
            labels (Tensor): Labels of shape (N,).
            label_weights (Tensor, optional): Weight of each proposal, shape (N,).
            avg_factor (float, optional): What the sum is divided by under ``"mean"``; the number
                of proposals by default.
            reduction_override (str, optional): Replaces ``reduction`` for this call.
            verified (Tensor, optional): Which categories are verified for the image of each
                proposal, boolean of shape (N, C). Needed with ``image_level_labels``.

        Returns:
            Tensor: A scalar, or shape (N,) under ``"none"``.

        Raises:
            UserError: If the logits are not of shape (N, C), or frequencies or image-level labels
                are missing.
        """
        self.check_logits(cls_score)
        excluded = (
            exclude_background_rows(labels, self.num_classes)
            if self.exclude_background
            else torch.ones_like(labels, dtype=torch.bool)
        )
        if not self.image_level_labels:
            verified = None
        elif verified is None:
            raise UserError(
                f"{type(self).__name__}: image_level_labels is on, but the box head passes none "
                "on; set bbox_head.type to 'ImageLevelShared2FCBBoxHead'."
            )
        row_losses = fused_equalization_loss if self.fused else equalization_loss
        losses = row_losses(cls_score, labels, self.tail_weights(), excluded, verified)
        reduction = reduction_override or self.reduction
        return self.loss_weight * reduce_rows(losses, label_weights, reduction, avg_factor)
