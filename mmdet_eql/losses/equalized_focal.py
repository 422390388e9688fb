"""Equalized Focal Loss (EFL) and Equalized Quality Focal Loss (EQFL), for dense heads.

A focal loss whose focusing parameter grows for the categories that are pushed down more than up
(arXiv 2201.02593):

    L = - sum_j alpha_j (gamma_j / gamma_b) (1 - q_j)^gamma_j log q_j,
    q_j = p_j if y_j = 1 else 1 - p_j,   p_j = sigmoid(z_j),
    gamma_j = gamma_b + s (1 - g_j),   g_j = pos_j / neg_j clamped to [0, 1],

alpha_j = alpha for a positive, 1 - alpha for a negative. EQFL is the same for the Quality Focal
Loss, whose positives have a target q in [0, 1], the IoU:

    positives: (gamma_j / gamma_b) |q - p_j|^gamma_j BCE(z_j, q), negatives as with q = 0, no alpha.

pos_j and neg_j sum |dL/dz_j|, the weights of the samples included. The derivative is written out:
it is needed for the sums, and autograd would keep several tensors of shape (N, C), 385 MB each for
4 images at 1,203 categories. Here the gradient alone is kept. N is the number of samples (anchors,
points) of a batch; for the rest see :mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, check_number, full_precision, split_target
from mmdet_eql.losses.class_statistics import GradientSums
from mmdet_eql.utils.errors import UserError

#: softplus(z) = z from here on, to the last digit of float64.
_LINEAR_FROM = 40.0
#: Number of logits that are taken at a time; on a CPU they stay in its cache.
_BLOCK = {"cpu": 2**17, "cuda": 2**25}


def focal_negatives(logits: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return -p^gamma log(1 - p) and its derivative by the logit, both of the logits' shape.

    Those of positives, -(1 - p)^gamma log p, are the loss of -z, and minus the derivative there.
    """
    loss = F.softplus(logits, threshold=_LINEAR_FROM)
    log_p = logits - loss
    modulation = (gamma * log_p).exp_()
    derivative = torch.exp(-loss).mul_(gamma).mul_(loss).add_(log_p.exp_()).mul_(modulation)
    return loss.mul_(modulation), derivative


def quality_positives(logits: Tensor, quality: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return |q - p|^gamma BCE(z, q) and its derivative by the logit, all of one shape (P,)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    distance = p - quality
    modulation = distance.abs() ** (gamma - 1)
    derivative = distance.abs() * distance + gamma * entropy * distance.sign() * p * (1 - p)
    return modulation * distance.abs() * entropy, modulation * derivative


class _WithGradient(torch.autograd.Function):
    """Row losses (N,) whose gradient by the logits, shape (N, C), is known."""

    @staticmethod
    def forward(ctx, cls_score: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = cls_score.dtype
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_losses[:, None] * gradient).to(ctx.dtype), None, None


class _EqualizedFocal(GradientSums, SigmoidLoss):
    """What both losses share; a subclass defines ``negative_factor`` and ``positive_losses``: the
    losses of the positives without gamma_j / gamma_b, and their derivatives."""

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

    def forward(
        self,
        cls_score: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss as the base class does, and in training add to the running sums.

        ``weight`` (N,), 0 for ignored anchors, enters the loss and the sums.
        """
        self.check_logits(cls_score)
        labels, quality = split_target(target, self.num_classes)
        cls_score = self.to_logits(cls_score) if self.activated else cls_score
        logits = full_precision(cls_score.detach())
        learns = self.training and torch.is_grad_enabled()
        with torch.autocast(logits.device.type, enabled=False):  # for the matrix products
            losses, gradient = self._losses_and_gradient(logits, labels, quality, weight, learns)
        losses = _WithGradient.apply(cls_score, losses, gradient)
        return self.reduce(losses, weight, avg_factor, reduction_override)

    @torch.no_grad()
    def _losses_and_gradient(
        self, logits: Tensor, labels: Tensor, quality, weight, learns: bool
    ) -> tuple[Tensor, Tensor]:
        gamma = self.focusing().to(logits.dtype)
        factor = gamma / self.gamma
        losses, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
        size = max(_BLOCK.get(logits.device.type, 2**25) // max(self.num_classes, 1), 1)
        # As if all were negatives, and then the positives, one entry of a row at most.
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            loss, derivative = focal_negatives(logits[rows], gamma)
            losses[rows] = loss @ (self.negative_factor * factor)
            torch.mul(derivative, self.negative_factor * factor, out=gradient[rows])
        row = (labels < self.num_classes).nonzero().squeeze(1)
        label = labels[row]
        at_label, of_label = logits[row, label], gamma[label]
        negative = focal_negatives(at_label, of_label)[0] * self.negative_factor
        quality = None if quality is None else quality[row].to(logits.dtype)
        positive, derivative = self.positive_losses(at_label, quality, of_label)
        losses[row] += (positive - negative) * factor[label]
        derivative *= factor[label]
        gradient[row, label] = 0
        if learns:
            weight = torch.ones_like(losses) if weight is None else weight.to(losses.dtype)
            negative = (weight @ gradient).double()
            positive = torch.zeros_like(negative)
            positive.index_add_(0, label, (weight[row] * derivative.abs()).double())
            self.add_gradients(positive, negative, len(logits))
        gradient[row, label] = derivative
        return losses, gradient


@MODELS.register_module()
class EqualizedFocalLoss(_EqualizedFocal):
    """Equalized Focal Loss for dense heads, by ``loss_cls`` of RetinaNet, ATSS and the like. Heads
    that call the loss once per level add to the sums with each call.

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

    def positive_losses(
        self, logits: Tensor, quality: Tensor | None, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
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

    def positive_losses(
        self, logits: Tensor, quality: Tensor | None, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the base class."""
        if quality is None:
            raise UserError(
                "EqualizedQualityFocalLoss: the head gives no IoU with its labels; use a head made "
                "for QualityFocalLoss, such as GFLHead, or EqualizedFocalLoss."
            )
        return quality_positives(logits, quality, gamma)
