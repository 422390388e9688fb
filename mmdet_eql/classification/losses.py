"""Losses on a softmax that plain classifiers are trained with, and box heads are not.

Both shift the logits by what is known of each class's count, which background has not.

Glossary:
    N: number of images of a batch.
    C: number of classes.
    n_j: number of training images of class j, shape (C,).
    labels: int64 of shape (N,), in [0, C).
"""

import math

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss
from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.losses.rivals.class_balanced import class_balanced_weights
from mmdet_eql.utils.errors import UserError


class _CountAwareSoftmax(CountAware, SoftmaxLoss):
    def __init__(self, num_classes: int | None, reduction: str, loss_weight: float) -> None:
        super().__init__(
            num_classes, has_background=False, reduction=reduction, loss_weight=loss_weight
        )


@MODELS.register_module()
class BalancedSoftmaxLoss(_CountAwareSoftmax):
    """Cross-entropy of the shifted logits z_j + tau log n_j; scores are a softmax of z.

    With tau = 1 this is balanced softmax (Ren et al., arXiv 2007.10740, equation 4), with another
    tau the logit-adjusted loss (Menon et al., arXiv 2007.07314, equation 10). Logit adjustment
    after training is ``LogitAdjustedSoftmaxLoss``.

    Args:
        num_classes (int, optional): C. Taken from the head by default.
        tau (float): Strength of the shift; 0 is softmax cross-entropy.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the images.
        loss_weight (float): Factor on the loss.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> loss = BalancedSoftmaxLoss(num_classes=2)
        >>> loss.set_class_counts(torch.tensor([90, 10]))
        >>> torch.exp(-loss(torch.zeros(1, 2), torch.tensor([0])))
        tensor(0.9000)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        tau: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, reduction, loss_weight)
        if not math.isfinite(tau):
            raise UserError(f"loss_cls.tau is {tau}; it must be a finite number.")
        self.tau = tau

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs counts. A class without images is taken to have one."""
        shift = self.tau * self.known_class_counts().clamp(min=1).log()
        return F.cross_entropy(logits + shift.to(logits.dtype), labels, reduction="none")


@MODELS.register_module()
class LDAMLoss(_CountAwareSoftmax):
    """Label-distribution-aware margins, with deferred re-weighting (Cao et al., arXiv 1906.07413,
    equations 12 and 13, algorithm 1).

    The label's cosine is lowered by a margin Delta_j = C / n_j^(1/4), with C such that the largest
    is ``max_margin``: cross-entropy of z - s Delta_y at the label. The classifier is a
    ``CosineClassifier`` with the same scale s. From epoch ``reweight_from`` on (DRW), images are
    weighed by the class-balanced weight of their class, divided by its mean over the batch as in
    the official code. ``EpochHook`` tells the epoch.

    Args:
        num_classes (int, optional): C. Taken from the head by default.
        max_margin (float): Margin of the smallest class, in units of cosine.
        scale (float): s of the classifier.
        reweight_from (int, optional): First epoch, counted from 0, with weights. None never weighs.
        beta (float): Of the class-balanced weights; see :func:`class_balanced_weights`.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the images.
        loss_weight (float): Factor on the loss.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        max_margin: float = 0.5,
        scale: float = 30.0,
        reweight_from: int | None = None,
        beta: float = 0.9999,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, reduction, loss_weight)
        if not 0 <= max_margin < math.inf or not 0 < scale < math.inf:
            raise UserError(
                f"loss_cls.max_margin is {max_margin} and loss_cls.scale {scale}; they must be at "
                "least 0, and above 0."
            )
        if not 0 <= beta < 1:
            raise UserError(f"loss_cls.beta is {beta}; it must be at least 0 and below 1.")
        self.max_margin = max_margin
        self.scale = scale
        self.reweight_from = reweight_from
        self.beta = beta
        self.epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 0."""
        self.epoch = epoch

    def margins(self) -> Tensor:
        """Delta_j of each class.

        Returns:
            Tensor: Shape (C,), float64, the greatest of them ``max_margin``.
        """
        margins = self.known_class_counts().clamp(min=1) ** -0.25
        return margins * (self.max_margin / margins.max())

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs counts and, to re-weight, the epoch."""
        margin = self.scale * self.margins().to(logits.dtype)[labels]
        shifted = logits.scatter_add(1, labels[:, None], -margin[:, None])
        losses = F.cross_entropy(shifted, labels, reduction="none")
        if self.reweight_from is None:
            return losses
        if self.epoch is None:
            raise UserError(
                "LDAMLoss re-weights from an epoch on, and is told none; add "
                "dict(type='EpochHook') to custom_hooks, or set reweight_from=None."
            )
        if self.epoch < self.reweight_from:
            return losses
        weights = class_balanced_weights(self.known_class_counts(), self.beta)[labels]
        return losses * (weights / weights.mean()).to(losses.dtype)
