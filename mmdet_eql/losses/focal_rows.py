"""Focal losses of the samples of a batch, with the gradient written out.

Autograd keeps several tensors of shape (N, C), 385 MB each for the anchors of 4 images at 1,203
categories. Here the gradient alone is kept, and what leads to it is computed in blocks of rows. N
is the number of samples, C that of categories; see :mod:`mmdet_eql.losses.base`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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


def focal_rows(
    logits: Tensor,
    labels: Tensor,
    gamma: Tensor,
    factor: Tensor,
    positives: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the losses of the rows (N,), and their gradient in two parts.

    These are the gradient of the negatives, of shape (N, C) and 0 at the labels, and for the P
    positives their rows, labels and derivatives, each of shape (P,).

    Args:
        logits, labels (Tensor): Shapes (N, C), float32 or float64, and (N,).
        gamma, factor (Tensor): Focusing and weight of a negative of each category, shape (C,).
        positives (Callable): Maps logits, rows and labels of the positives, each of shape (P,), to
            their losses and derivatives.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        losses, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
        size = max(_BLOCK.get(logits.device.type, 2**25) // max(logits.shape[1], 1), 1)
        # As if all were negatives, and then the positives, one entry of a row at most.
        for start in range(0, len(logits), size):
            rows = slice(start, start + size)
            loss, derivative = focal_negatives(logits[rows], gamma)
            losses[rows] = loss @ factor
            torch.mul(derivative, factor, out=gradient[rows])
        row = (labels < logits.shape[1]).nonzero().squeeze(1)
        label = labels[row]
        at_label = logits[row, label]
        negative = focal_negatives(at_label, gamma[label])[0] * factor[label]
        positive, derivative = positives(at_label, row, label)
        losses[row] += positive - negative
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
