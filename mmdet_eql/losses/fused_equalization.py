"""The Equalization Loss with its gradient written out.

Autograd keeps a target, a weight and a loss for every proposal and category of

    L = sum_j w_j [softplus(z_j) - y_j z_j],   w_j = 1 - E(r) T(f_j) (1 - y_j),

which is :func:`~mmdet_eql.losses.equalization.equalization_loss`, as -log p = softplus(z) - z and
-log(1 - p) = softplus(z). But w comes from two vectors, y is 1 in one column of a row at most, and
w is 1 there:

    L = softplus(-z_label) + sum_{j != label} w_j softplus(z_j),   dL/dz_j = w_j p_j - y_j,

without the terms of the label for background. So nothing of shape (N, C) is kept between the
passes but the logits. On a CPU rows are taken in blocks that stay in its cache, and the gradient is
the only tensor of that shape; a GPU takes all rows at once, and nothing in either pass waits for
it.

Glossary:
    N: number of proposals (RoIs) of a batch.
    C: number of foreground categories.
    cls_score: z, logits of shape (N, C).
    labels: int64 of shape (N,), in [0, C); C means background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdet_eql.losses.classifier import full_precision
from mmdet_eql.utils.errors import UserError

#: softplus(z) = z from here on, to the last digit of float64.
_LINEAR_FROM = 40.0
#: Number of logits of a block of rows: half a mebibyte in float32.
_BLOCK = 2**17


def fused_equalization_loss(
    cls_score: Tensor,
    labels: Tensor,
    tail: Tensor,
    excluded: Tensor,
    verified: Tensor | None = None,
) -> Tensor:
    """The loss of each proposal, summed over the categories.

    The same as :func:`~mmdet_eql.losses.equalization.equalization_loss`, faster and in less memory.
    Its gradient cannot be differentiated again, which is refused, and ``torch.func`` does not apply
    to it.

    Args:
        cls_score (Tensor): Logits of shape (N, C), float.
        labels (Tensor): Labels of shape (N,).
        tail (Tensor): T(f_j), shape (C,).
        excluded (Tensor): E(r), boolean of shape (N,).
        verified (Tensor, optional): Where the weight is 1 nevertheless, boolean of shape (N, C).

    Returns:
        Tensor: Loss of shape (N,), float32, or float64 for float64 logits.

    Raises:
        UserError: In the backward pass, if it is to be differentiated itself.
    """
    return _FusedEqualization.apply(cls_score, labels, tail, excluded, verified)


class _FusedEqualization(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cls_score, labels, tail, excluded, verified):
        ctx.save_for_backward(cls_score, labels, tail, excluded, verified)
        tail = tail.to(_full_dtype(cls_score))
        column, is_positive = _label_columns(labels, tail)
        score = cls_score.gather(1, column).to(tail.dtype)
        # The positive is added apart: z less softplus(z) would lose the digits of a small loss.
        at_label = _softplus(score).masked_fill(is_positive, 0)
        losses = _softplus(-score).masked_fill(~is_positive, 0).squeeze(1)
        for rows in _blocks(cls_score):
            negatives = _softplus(full_precision(cls_score[rows]))
            negatives.scatter_(1, column[rows], at_label[rows])
            losses[rows] += _weighted_sum(negatives, tail, excluded[rows], _or_none(verified, rows))
        return losses

    @staticmethod
    def backward(ctx, grad_losses):
        if torch.is_grad_enabled():
            # Autograd would take what follows for a constant.
            raise UserError(
                "EqualizationLoss: a gradient of its gradient is asked for (create_graph=True); "
                "set loss_cls.fused to False."
            )
        cls_score, labels, tail, excluded, verified = ctx.saved_tensors
        tail = tail.to(_full_dtype(cls_score))
        column, is_positive = _label_columns(labels, tail)
        row = grad_losses[:, None]
        grad = torch.empty_like(cls_score, dtype=tail.dtype)
        for rows in _blocks(cls_score):
            torch.sigmoid(full_precision(cls_score[rows]), out=grad[rows])
            grad[rows] *= _weights(row[rows], tail, excluded[rows], _or_none(verified, rows))
        at_label = row * (cls_score.gather(1, column).to(tail.dtype).sigmoid() - 1)
        grad.scatter_(1, column, torch.where(is_positive, at_label, grad.gather(1, column)))
        return grad.to(cls_score.dtype), None, None, None, None


def _blocks(cls_score: Tensor) -> list[slice]:
    """The rows, in blocks whose intermediate results stay in the cache of a processor."""
    num_rows, num_classes = cls_score.shape
    # A GPU does better with everything at once.
    size = max(_BLOCK // num_classes, 1) if cls_score.device.type == "cpu" else max(num_rows, 1)
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def _softplus(logits: Tensor) -> Tensor:
    return F.softplus(logits, threshold=_LINEAR_FROM)


def _weighted_sum(
    losses: Tensor, tail: Tensor, excluded: Tensor, verified: Tensor | None
) -> Tensor:
    """The sum of w_j times losses of negatives, which it overwrites, shape (N,)."""
    unweighted = losses.sum(dim=1)
    weights = 1 - tail if verified is None else torch.where(verified, 1, 1 - tail)
    return torch.where(excluded, losses.mul_(weights).sum(dim=1), unweighted)


def _weights(row: Tensor, tail: Tensor, excluded: Tensor, verified: Tensor | None) -> Tensor:
    """w_j of negatives times a factor of each row, shape (N, C)."""
    spared = row * excluded[:, None] * tail
    if verified is not None:
        spared.masked_fill_(verified, 0)
    return torch.sub(row, spared, out=spared)


def _label_columns(labels: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """The column of the label, any for background, and whether y is 1 there; shape (N, 1)."""
    is_category = F.pad(torch.ones_like(tail, dtype=torch.bool), (0, 1))
    # gather() refuses labels that are neither categories nor background.
    is_positive = is_category.gather(0, labels)
    return labels.clamp(max=len(tail) - 1)[:, None], is_positive[:, None]


def _full_dtype(cls_score: Tensor) -> torch.dtype:
    return full_precision(cls_score[:0]).dtype


def _or_none(verified: Tensor | None, rows: slice) -> Tensor | None:
    return None if verified is None else verified[rows]
