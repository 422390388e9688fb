"""Equilibrium loss of LOCE: margins by how well each category is classified at the time.

The mean score s_j that samples of category j reach at their own category tells how weak the
category is. A softmax in which a weak label has to win by a margin (arXiv 2108.07507):

    L = - log [s_y exp(z_y) / sum_k s_k exp(z_k)],   a margin of log(s_k / s_y) against category k.

s_j is a moving average of the softmax of z at the label, over the training and all ranks, 0.01 at
first; that of background is 0.01 for good. The authors' code (fcjian/LOCE) averages over the
proposals of an object and moves s_j once for each object; here it moves once an iteration, by the
mean of the proposals of category j, and counts from the next one on. The memory-augmented feature
sampling of the paper is not part of the loss. For N, C, K and labels see
:mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss, check_number
from mmdet_eql.losses.class_statistics import MeanScores


@MODELS.register_module()
class EquilibriumLoss(MeanScores, SoftmaxLoss):
    """Equilibrium loss on a softmax with background, for box heads; scores are the softmax of z.

    ``forward`` moves the mean scores in training mode with gradients enabled only.

    Args:
        momentum (float): How much of s_j stays in a step, in [0, 1]; the paper's alpha.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SoftmaxLoss`.

    Example:
        >>> loss = EquilibriumLoss(num_classes=2)
        >>> value = loss(torch.zeros(1, 3), torch.tensor([0]))  # all s_j are equal at first
        >>> torch.isclose(value, torch.tensor(3.0).log())
        tensor(True)
        >>> round(loss.mean_score[0].item(), 4)  # 0.9 * 0.01 + 0.1 / 3
        0.0423
    """

    box_heads_only = True

    def __init__(self, num_classes: int | None = None, momentum: float = 0.9, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("momentum", momentum, high=1)
        self.momentum = momentum

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        mean_score = F.pad(self.mean_score, (0, self.extra_logits), value=self.initial_value)
        # Below the smallest float32, which no mean of scores is, lies the logarithm of 0.
        margins = mean_score.clamp(min=torch.finfo(torch.float32).tiny).log()
        losses = F.cross_entropy(logits + margins.to(logits.dtype), labels, reduction="none")
        if self.training and torch.is_grad_enabled():
            own = logits.detach().softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
            foreground = labels < self.num_classes
            scores, counts = (
                values.new_zeros(self.num_classes + 1, dtype=torch.float64).index_add(
                    0, labels, values.double()
                )[:-1]
                for values in (own, foreground)
            )
            self.add_pass(scores, counts, len(labels))
        return losses
