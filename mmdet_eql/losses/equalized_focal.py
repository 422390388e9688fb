"""Equalized Focal Loss (EFL) and Equalized Quality Focal Loss (EQFL), for dense heads.

A focal loss whose focusing parameter grows for the categories that are pushed down more than up
(arXiv 2201.02593):

    L = - sum_j alpha_j (gamma_j / gamma_b) (1 - q_j)^gamma_j log q_j,
    q_j = p_j if y_j = 1 else 1 - p_j,   p_j = sigmoid(z_j),
    gamma_j = gamma_b + s (1 - g_j),   g_j = pos_j / neg_j clamped to [0, 1],

alpha_j = alpha for a positive, 1 - alpha for a negative. EQFL is the same for the Quality Focal
Loss, whose positives have a target q in [0, 1], the IoU:

    positives: (gamma_j / gamma_b) |q - p_j|^gamma_j BCE(z_j, q), negatives as with q = 0, no alpha.

pos_j and neg_j sum |dL/dz_j|, the weights of the samples included; for these sums, too, it is
written out (:mod:`mmdet_eql.losses.focal_rows`). For N, C, z, labels and quality see
:mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, check_number
from mmdet_eql.losses.class_statistics import GradientSums
from mmdet_eql.losses.focal_rows import Losses, focal_negatives
from mmdet_eql.utils.errors import UserError


def quality_positives(logits: Tensor, quality: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return |q - p|^gamma BCE(z, q) and its derivative by the logit, all of one shape (P,)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    distance = p - quality
    modulation = distance.abs() ** (gamma - 1)
    derivative = distance.abs() * distance + gamma * entropy * distance.sign() * p * (1 - p)
    return modulation * distance.abs() * entropy, modulation * derivative


class _EqualizedFocal(GradientSums, SigmoidLoss):
    """What both losses share; a subclass defines ``negative_factor`` and ``positive_losses``: the
    losses of the positives without gamma_j / gamma_b, and their derivatives."""

    reads_quality = reads_weight = True
    negative_factor = 1.0

    def __init__(
        self,
        num_classes: int | None = None,
        gamma: float = 2.0,
        scale_factor: float = 8.0,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("gamma", gamma, low=1)
        check_number("scale_factor", scale_factor)
        self.gamma = gamma
        self.scale_factor = scale_factor

    def focusing(self) -> Tensor:
        """Return gamma_j for the next forward pass, float64 of shape (C,); gamma_b at first."""
        ratio = self.gradient_ratio().clamp(0, 1)
        ratio = torch.where(self.num_seen > 0, ratio, torch.ones_like(ratio))
        return self.gamma + self.scale_factor * (1 - ratio)

    def row_losses(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None, quality: Tensor | None = None
    ) -> Tensor:
        """See the base class; in training adds to the running sums, which ``weight`` enters."""
        gamma = self.focusing().to(logits.dtype)
        factor = gamma / self.gamma

        def negatives(logits: Tensor) -> Losses:
            return focal_negatives(logits, gamma)

        def positives(at_label: Tensor, label: Tensor, target: Tensor | None) -> Losses:
            loss, derivative = self.positive_losses(at_label, target, gamma[label])
            return loss * factor[label], derivative * factor[label]

        how = negatives, self.negative_factor * factor, positives, quality
        return self.with_sums(logits, labels, weight, *how)


@MODELS.register_module()
class EqualizedFocalLoss(_EqualizedFocal):
    """Equalized Focal Loss, by ``loss_cls`` of RetinaNet, ATSS and the like.

    Args:
        num_classes (int, optional): C. Taken from the head by default.
        gamma (float): gamma_b, at least 1.
        alpha (float): Weight of the positives, in [0, 1].
        scale_factor (float): s, at least 0; 0 is the focal loss.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`. The sums do not depend on
            ``reduction`` and ``loss_weight``.

    Example:
        >>> loss = EqualizedFocalLoss(num_classes=2, alpha=0.5)
        >>> value = loss(torch.zeros(1, 2), torch.tensor([0]))
        >>> torch.isclose(value, 0.25 * torch.tensor(2.0).log())
        tensor(True)
    """

    def __init__(self, num_classes: int | None = None, alpha: float = 0.25, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("alpha", alpha, high=1)
        self.alpha = alpha
        self.negative_factor = 1 - alpha

    def positive_losses(self, logits: Tensor, quality: Tensor | None, gamma: Tensor) -> Losses:
        """See the base class; qualities are not read."""
        loss, derivative = focal_negatives(-logits, gamma)
        return self.alpha * loss, -self.alpha * derivative


@MODELS.register_module()
class EqualizedQualityFocalLoss(_EqualizedFocal, QualityFocalLoss):
    """Equalized Quality Focal Loss for heads that give a quality (IoU) with the labels; a UserError
    if the head gives none. The DETR family gives it to a ``QualityFocalLoss`` alone.

    Args:
        num_classes, gamma, **kwargs: As in :class:`EqualizedFocalLoss`.
        scale_factor (float): s, at least 0; 0 is the Quality Focal Loss.
    """

    def positive_losses(self, logits: Tensor, quality: Tensor | None, gamma: Tensor) -> Losses:
        """See the base class."""
        if quality is None:
            raise UserError(
                "EqualizedQualityFocalLoss: the head gives no IoU with its labels; use a head made "
                "for QualityFocalLoss, such as GFLHead, or EqualizedFocalLoss."
            )
        return quality_positives(logits, quality, gamma)
