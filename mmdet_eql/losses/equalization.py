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

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.errors import UserError
from mmdet_eql.losses.sigmoid_classifier import SigmoidClassifierLoss, one_hot_targets
from mmdet_eql.losses.tail_weighting import threshold_tail


def exclude_background_rows(labels: Tensor, num_classes: int) -> Tensor:
    """E(r): 1 for a foreground proposal, 0 for a background one.

    Args:
        labels (Tensor): Labels of shape (N,).
        num_classes (int): C.

    Returns:
        Tensor: Boolean of shape (N,).
    """
    return labels < num_classes


def equalization_loss(cls_score: Tensor, labels: Tensor, tail: Tensor, excluded: Tensor) -> Tensor:
    """The loss of each proposal, summed over the categories (equation 3).

    Args:
        cls_score (Tensor): Logits of shape (N, C), float.
        labels (Tensor): Labels of shape (N,).
        tail (Tensor): T(f_j), shape (C,).
        excluded (Tensor): E(r), boolean of shape (N,).

    Returns:
        Tensor: Loss of shape (N,), float32, or float64 for float64 logits.
    """
    # In half precision a sum over a thousand categories loses its smaller terms.
    logits = cls_score if cls_score.dtype == torch.float64 else cls_score.float()
    targets = one_hot_targets(labels, logits.shape[1], logits.dtype)
    weights = 1 - excluded.to(logits.dtype)[:, None] * tail.to(logits.dtype) * (1 - targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
    return losses.sum(dim=1)


def _unknown_frequency(num_classes: int) -> Tensor:
    """The frequency buffer before anything was handed over: NaN, but of its final shape, so that
    every checkpoint of the model has it. Double precision keeps ``f < lambda`` exact."""
    return torch.full((num_classes,), float("nan"), dtype=torch.float64)


@MODELS.register_module()
class EqualizationLoss(SigmoidClassifierLoss):
    """Equalization Loss for the box heads of mmdet.

    The frequencies are handed over once, before training, and live in a persistent buffer: a
    checkpoint evaluates without the training annotations and resumes with the same tail.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        lambda_ (float): Frequency below which a category belongs to the tail. 0 makes the plain
            sigmoid baseline, which needs no frequencies.
        exclude_background (bool): Whether background proposals keep pushing tail categories down,
            i.e. whether E(r) is used. Without it E(r) = 1 for every proposal.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the proposals; over the
            categories the loss is always summed.
        loss_weight (float): Factor on the loss.

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
        lambda_: float = 1.76e-3,
        exclude_background: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        if not 0 <= lambda_ <= 1:
            raise UserError(
                f"loss_cls.lambda_ is {lambda_}; it is a frequency (images of a category over all "
                "images) and must lie between 0 and 1."
            )
        if reduction not in ("none", "mean", "sum"):
            raise UserError(f"loss_cls.reduction is {reduction!r}; choose 'none', 'mean' or 'sum'.")
        super().__init__(num_classes)
        self.lambda_ = lambda_
        self.exclude_background = exclude_background
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.register_buffer("class_frequency", _unknown_frequency(num_classes or 0))

    def get_cls_channels(self, num_classes: int) -> int:
        """See the base class; also gives the frequency buffer its shape."""
        channels = super().get_cls_channels(num_classes)
        if len(self.class_frequency) != num_classes:
            self.class_frequency = _unknown_frequency(num_classes)
        return channels

    def set_class_frequency(self, freq: Tensor | np.ndarray) -> None:
        """Hand over the class frequencies.

        Args:
            freq (Tensor | np.ndarray): f_j, float of shape (C,), each in [0, 1].

        Raises:
            UserError: If there are not C of them, or one is out of range.
        """
        freq = torch.as_tensor(freq).detach()
        if self.num_classes is None:
            self.get_cls_channels(len(freq))
        if freq.shape != (self.num_classes,):
            raise UserError(
                f"{type(self).__name__}: got {'x'.join(map(str, freq.shape))} class frequencies "
                f"for {self.num_classes} logits; set num_classes of bbox_head, mask_head and "
                "loss_cls to the number of categories of the training annotations."
            )
        if not freq.is_floating_point() or not bool(((freq >= 0) & (freq <= 1)).all()):
            raise UserError(
                f"{type(self).__name__}: class frequencies must be floats between 0 and 1 (images "
                "of a category over all images); counts have to be divided by the number of images."
            )
        self.class_frequency = freq.to(self.class_frequency)

    def tail_weights(self) -> Tensor:
        """T(f_j) of each category.

        Returns:
            Tensor: Shape (C,), float64, in [0, 1].

        Raises:
            UserError: If the loss needs frequencies and has none.
        """
        if self.lambda_ == 0:
            return torch.zeros_like(self.class_frequency)
        if torch.isnan(self.class_frequency).any():
            raise UserError(
                f"{type(self).__name__} has no class frequencies; add "
                "dict(type='ClassFrequencyHook') to custom_hooks, or call set_class_frequency()."
            )
        return threshold_tail(self.class_frequency, self.lambda_)

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            cls_score (Tensor): Logits of shape (N, C).
            labels (Tensor): Labels of shape (N,).
            label_weights (Tensor, optional): Weight of each proposal, shape (N,).
            avg_factor (float, optional): What the sum is divided by under ``"mean"``; the number
                of proposals by default.
            reduction_override (str, optional): Replaces ``reduction`` for this call.

        Returns:
            Tensor: A scalar, or shape (N,) under ``"none"``.

        Raises:
            UserError: If the logits are not of shape (N, C) or frequencies are missing.
        """
        if self.num_classes is None:
            raise UserError(
                f"{type(self).__name__} does not know the number of categories; set "
                "loss_cls.num_classes."
            )
        self.check_logits(cls_score)
        excluded = (
            exclude_background_rows(labels, self.num_classes)
            if self.exclude_background
            else torch.ones_like(labels, dtype=torch.bool)
        )
        losses = equalization_loss(cls_score, labels, self.tail_weights(), excluded)
        reduction = reduction_override or self.reduction
        if len(losses) == 0 and reduction == "mean" and avg_factor is None:
            # The mean over no proposals is NaN; their sum is 0 and keeps the graph.
            reduction = "sum"
        return self.loss_weight * weight_reduce_loss(losses, label_weights, reduction, avg_factor)
