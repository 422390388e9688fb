"""DropLoss: EQL that also spares the tail most of the background.

EQL keeps what background proposals push down, and for a rare category these are nearly all
negatives. DropLoss keeps of them only a random part, as large as the share of the tail among the
foreground of the batch (arXiv 2104.06402):

    L = - sum_j w_j [y_j log p_j + (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j),
    w_j = 1 - b_j T(f_j) (1 - y_j),
    b_j = 1 for a foreground proposal, b_j ~ Bernoulli(1 - mu) for background,
    mu = mean of T(f_label) over the foreground proposals,

with b_j drawn anew for each proposal and category. As in the authors' code
(timy90022/DropLoss), mu is that of the proposals on one GPU, and 1 if none is foreground. For N, C,
f_j and labels see :mod:`mmdet_eql.losses.base`, for T(f) :mod:`mmdet_eql.losses.tail_weighting`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, one_hot_targets
from mmdet_eql.losses.tail_weighting import TailAware


@MODELS.register_module()
class DropLoss(TailAware, SigmoidLoss):
    """DropLoss on C sigmoids without a background output, for box heads.

    The draw comes from torch's generator of the device of the logits; ranks draw for their own
    proposals.

    Args:
        lambda_, tail_weighting: Those of :class:`~mmdet_eql.losses.tail_weighting.TailAware`. The
            authors take EQL's lambda for LVIS v0.5 and 1.006e-3 for v1.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = DropLoss(num_classes=2, lambda_=0.1)
        >>> loss.set_class_frequency(torch.tensor([0.5, 0.01]))
        >>> value = loss(torch.zeros(2, 2), torch.tensor([0, 2]))  # no foreground of the tail
        >>> torch.isclose(value, torch.tensor(2.0).log())  # the tail gets no negatives
        tensor(True)
    """

    box_heads_only = True

    def draw_excluded(self, labels: Tensor, tail: Tensor) -> Tensor:
        """Return b of proposals with labels (N,), for T(f_j) of shape (C,): boolean (N, C)."""
        foreground = labels < self.num_classes
        in_tail = F.pad(tail, (0, 1))[labels].sum()
        share = torch.where(foreground.any(), in_tail / foreground.sum().clamp(min=1), 1.0)
        # rand() is below 1, so that a share of 1 keeps all.
        dropped = torch.rand(len(labels), len(tail), device=labels.device) >= share
        return dropped | foreground[:, None]

    def entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each logit, shape (N, C)."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs frequencies."""
        tail = self.tail_weights().to(logits.dtype)
        targets = one_hot_targets(labels, logits)
        weights = 1 - self.draw_excluded(labels, tail) * tail * (1 - targets)
        return (weights * self.entropies(logits, targets)).sum(dim=1)
