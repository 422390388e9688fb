"""Losses of the samples of a batch on sigmoids, with the gradient written out.

Autograd keeps several tensors of shape (N, C), 385 MB each for the anchors of 4 images at 1,203
categories. Here the gradient alone is kept, and what leads to it is computed in blocks of rows. N
is the number of samples, C that of categories; see :mod:`mmdet_eql.losses.base`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_eql.utils.errors import UserError

#: softplus(z) = z from here on, to the last digit of float64.
_LINEAR_FROM = 40.0
#: Number of logits that are taken at a time; on a CPU they stay in its cache.
_BLOCK = {"cpu": 2**17, "cuda": 2**25}
#: Losses and their derivatives by the logit.
Losses = tuple[Tensor, Tensor]


def focal_negatives(logits: Tensor, gamma: Tensor) -> Losses:
    """Return -p^gamma log(1 - p) and its derivative by the logit, both of the logits' shape.

    Those of positives, -(1 - p)^gamma log p, are the loss of -z, and minus the derivative there.
    """
    loss = F.softplus(logits, threshold=_LINEAR_FROM)
    log_p = logits - loss
    modulation = (gamma * log_p).exp_()
    derivative = torch.exp(-loss).mul_(gamma).mul_(loss).add_(log_p.exp_()).mul_(modulation)
    return loss.mul_(modulation), derivative


def cross_entropy_negatives(logits: Tensor) -> Losses:
    """Return -log(1 - p) and its derivative by the logit, both of the logits' shape."""
    return F.softplus(logits, threshold=_LINEAR_FROM), logits.sigmoid()


def cross_entropy_positives(logits: Tensor, quality: Tensor | None) -> Losses:
    """Return -q log p - (1 - q) log(1 - p) and its derivative by the logit, all of one shape; q is
    1 for None."""
    targets = torch.ones_like(logits) if quality is None else quality
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses, logits.sigmoid() - targets


def row_blocks(logits: Tensor) -> Iterator[slice]:
    """Yield the blocks of rows in which logits of shape (N, C) are taken."""
    size = max(_BLOCK.get(logits.device.type, 2**25) // max(logits.shape[1], 1), 1)
    for start in range(0, len(logits), size):
        yield slice(start, start + size)


def focal_rows(
    logits: Tensor,
    labels: Tensor,
    negatives: Callable[[Tensor], Losses],
    factor: Tensor | Callable[[slice], Tensor],
    positives: Callable[[Tensor, Tensor, Tensor | None], Losses],
    quality: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the losses of the rows (N,), and their gradient in two parts; a UserError if a label
    is out of range.

    These are the gradient of the negatives, of shape (N, C) and 0 at the labels, and for the P
    positives their rows, labels and derivatives, each of shape (P,).

    Args:
        logits, labels (Tensor): Shapes (N, C), float32 or float64, and (N,).
        negatives (Callable): Maps logits of shape (n, C) to their losses and derivatives as
            negatives.
        factor (Tensor | Callable): Weight of a negative of each category, shape (C,), or what
            returns it for a slice of rows, with shape (C,) or (n, C).
        positives (Callable): Maps logits, labels and qualities of the positives, each of shape
            (P,), to their losses and derivatives.
        quality (Tensor, optional): Shape (N,); without it ``positives`` gets None.
    """
    if not bool(((labels >= 0) & (labels <= logits.shape[1])).all()):
        raise UserError(
            f"the labels of the samples go from {labels.min()} to {labels.max()}; they have to lie "
            f"between 0 and {logits.shape[1]}, the last for background: correct num_classes."
        )
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        losses, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
        for rows in row_blocks(logits):
            loss, derivative = negatives(logits[rows])
            own = (labels[rows] < logits.shape[1]).nonzero().squeeze(1)
            loss[own, labels[rows][own]] = 0
            weight = factor(rows) if callable(factor) else factor
            losses[rows] = loss @ weight if weight.ndim == 1 else loss.mul_(weight).sum(dim=1)
            torch.mul(derivative, weight, out=gradient[rows])
        row = (labels < logits.shape[1]).nonzero().squeeze(1)
        label = labels[row]
        of_positives = None if quality is None else quality[row].to(logits.dtype)
        positive, derivative = positives(logits[row, label], label, of_positives)
        losses[row] += positive
        gradient[row, label] = 0
    return losses, gradient, (row, label, derivative)


class WithGradient(torch.autograd.Function):
    """Row losses (N,) whose gradient by the logits, shape (N, C), is known."""

    @staticmethod
    def forward(ctx, cls_score: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return the losses."""
        ctx.save_for_backward(gradient)
        ctx.dtype = cls_score.dtype
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_losses: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient by ``cls_score``."""
        (gradient,) = ctx.saved_tensors
        return (grad_losses[:, None] * gradient).to(ctx.dtype), None, None


def rows_with_gradient(logits: Tensor, labels: Tensor, *how: Any) -> Tensor:
    """Return the losses of the rows (N,) with their gradient; arguments are those of
    :func:`focal_rows`."""
    losses, gradient, (row, label, derivative) = focal_rows(logits.detach(), labels, *how)
    gradient[row, label] = derivative
    return WithGradient.apply(logits, losses, gradient)


def cross_entropy_rows(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | Callable[[slice], Tensor],
    quality: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid cross-entropy of the rows (N,), whose negatives weigh what ``factor`` of
    :func:`focal_rows` says, positives 1; ``quality`` (N,) is the target of these, by default 1."""

    def positives(at_label: Tensor, label: Tensor, target: Tensor | None) -> Losses:
        return cross_entropy_positives(at_label, target)

    how = cross_entropy_negatives, factor, positives, quality
    return rows_with_gradient(logits, labels, *how)
