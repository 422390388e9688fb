"""Softmax losses of image classification that shift the logits by the class counts; the other
losses of the configs are those of :mod:`mmdet_eql.losses`.

Logits z of N images and C classes have the shape (N, C), labels y are int64 of shape (N,), in
[0, C); n_j is the number of training images of class j.
"""

import math

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss, check_number
from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.losses.rivals.class_balanced import class_balanced_weights
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class BalancedSoftmaxLoss(CountAware, SoftmaxLoss):
    """Cross-entropy of the shifted logits z_j + tau log n_j; the scores are the softmax of z.

    With tau = 1 this is balanced softmax (Ren et al., arXiv 2007.10740, equation 4), with another
    tau the logit-adjusted loss (Menon et al., arXiv 2007.07314, equation 10). Logit adjustment
    after training is ``LogitAdjustedSoftmaxLoss``.

    Args:
        num_classes (int, optional): C. Taken from the head by default.
        tau (float): Strength of the shift; 0 is softmax cross-entropy.
        **kwargs: ``reduction`` and ``loss_weight``.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> loss = BalancedSoftmaxLoss(num_classes=2)
        >>> loss.set_class_counts(torch.tensor([90, 10]))
        >>> torch.exp(-loss(torch.zeros(1, 2), torch.tensor([0])))
        tensor(0.9000)
    """

    def __init__(self, num_classes: int | None = None, tau: float = 1.0, **kwargs) -> None:
        super().__init__(num_classes, has_background=False, **kwargs)
        check_number("tau", tau, low=-math.inf)
        self.tau = tau

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs counts. A class without images counts as if it had one."""
        shift = self.tau * self.known_class_counts().clamp(min=1).log()
        return F.cross_entropy(logits + shift.to(logits.dtype), labels, reduction="none")


@MODELS.register_module()
class LDAMLoss(CountAware, SoftmaxLoss):
    """Label-distribution-aware margins, with deferred re-weighting (Cao et al., arXiv 1906.07413,
    equations 12 and 13, algorithm 1).

    Cross-entropy of the logits z with z_y - s Delta_y at the label y. The margin Delta_j is
    proportional to n_j^(-1/4), the largest is ``max_margin``. The classifier is a
    ``CosineClassifier`` of the same scale s. From epoch ``reweight_from`` on (DRW), the loss of an
    image is multiplied by the class-balanced weight of its class over the mean of the batch, as in
    the official code; ``EpochHook`` sets the epoch.

    Args:
        num_classes (int, optional): C; the head's by default.
        max_margin (float): Margin of the smallest class, as a cosine.
        scale (float): s of the classifier.
        reweight_from (int, optional): First epoch with weights, from 0 on; None for never.
        beta (float): Of the class-balanced weights; see :func:`class_balanced_weights`.
        **kwargs: ``reduction`` and ``loss_weight``.

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
        **kwargs,
    ) -> None:
        super().__init__(num_classes, has_background=False, **kwargs)
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
        """Set the epoch that begins, counted from 0."""
        self.epoch = epoch

    def margins(self) -> Tensor:
        """Return Delta_j, float64 of shape (C,)."""
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
                "LDAMLoss: reweight_from needs the epoch; add dict(type='EpochHook') to "
                "custom_hooks, or set reweight_from=None."
            )
        if self.epoch < self.reweight_from:
            return losses
        weights = class_balanced_weights(self.known_class_counts(), self.beta)[labels]
        return losses * (weights / weights.mean()).to(losses.dtype)
