"""Gumbel optimized loss (GOL): the sigmoid replaced by the distribution function of Gumbel's law.

    p_j = exp(-exp(-z_j))

is not symmetric: it goes to 0 much faster than to 1, and its gradient for a positive is exp(-z_j),
unbounded, where that of a sigmoid is at most 1 (arXiv 2207.10936). The loss is the cross-entropy of
p_j, weighted as DropLoss does. As in the authors' code (kostas1515/GOL), z is limited to [-4, 10]
in training, beyond which there is no gradient. For N, C, f_j and labels see
:mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import full_precision
from mmdet_eql.losses.rivals.drop import DropLoss


@MODELS.register_module()
class GumbelOptimizedLoss(DropLoss):
    """Cross-entropy of Gumbel activations with the weights of DropLoss, for box heads.

    ``cls_predictor_cfg=dict(type="PriorLinear", activation="gumbel")`` starts the classifier at a
    small probability, by a bias of -1.93; the authors take -2. A start made for sigmoids lies where
    there is no gradient, and is refused.

    Args:
        lambda_ (float): As in :class:`DropLoss`; 0 is the Gumbel activation alone, which needs no
            frequencies. The authors take 1.1e-3 for LVIS v1.
        **kwargs: Those of :class:`DropLoss`.

    Example:
        >>> loss = GumbelOptimizedLoss(num_classes=1, lambda_=0)
        >>> loss(torch.zeros(1, 1), torch.tensor([0]))  # p = exp(-1)
        tensor(1.)
    """

    activation = "gumbel"

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: exp(-exp(-z)) and a zero background column, shape (N, C + 1)."""
        self.check_logits(cls_score)
        scores = (-(-full_precision(cls_score)).exp()).exp()
        return F.pad(scores.to(cls_score.dtype), (0, 1))

    def entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See the base class."""
        minus_log_p = (-logits.clamp(-4, 10)).exp()
        # log(1 - p) without the rounding of p, which is close to 1 or 0.
        return torch.where(targets > 0, minus_log_p, -(-torch.expm1(-minus_log_p)).log())
