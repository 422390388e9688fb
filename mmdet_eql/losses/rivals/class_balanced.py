"""Class-balanced loss: samples weigh less the more of their category there are.

The weight of a sample of category j is the inverse of the effective number of samples,

    E_j = (1 - beta^n_j) / (1 - beta),

scaled such that the weights of all categories sum up to C (arXiv 1901.05555). It multiplies the
whole loss of the sample, a softmax or C sigmoids. The paper knows no background; a background
proposal weighs 1, the mean over the categories. For C and n_j see :mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, SoftmaxLoss
from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.losses.focal_rows import cross_entropy_rows
from mmdet_eql.utils.errors import UserError


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """Return the weight of a sample of each category, shape (C,), with sum C.

    Args:
        counts (Tensor): n_j, float64 of shape (C,); 0 counts as 1.
        beta (float): In [0, 1): 0 weighs all categories alike, towards 1 the weight becomes that of
            the inverse count.
    """
    # expm1 keeps 1 - beta^n exact for beta close to 1.
    log_beta = torch.tensor(beta, dtype=counts.dtype, device=counts.device).log()
    effective = -torch.expm1(counts.clamp(min=1) * log_beta) / (1 - beta)
    weights = 1 / effective
    return weights * (len(weights) / weights.sum())


class _ClassBalanced(CountAware):
    def __init__(self, num_classes: int | None = None, beta: float = 0.9999, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        if not 0 <= beta < 1:
            raise UserError(
                f"loss_cls.beta is {beta}; it must be at least 0 and below 1 (if it is of the "
                "loss of the base config, add _delete_=True)."
            )
        self.beta = beta

    def _balance(self, losses: Tensor, labels: Tensor) -> Tensor:
        weights = class_balanced_weights(self.known_class_counts(), self.beta)
        return losses * F.pad(weights, (0, 1), value=1.0).to(losses.dtype)[labels]


@MODELS.register_module()
class ClassBalancedSigmoidLoss(_ClassBalanced, SigmoidLoss):
    """Class-balanced loss on C sigmoids without a background output.

    Args:
        beta (float): In [0, 1), a UserError otherwise; see :func:`class_balanced_weights`.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = ClassBalancedSigmoidLoss(num_classes=2, beta=0.0)
        >>> loss.set_class_counts(torch.tensor([1000, 10]))
        >>> value = loss(torch.zeros(1, 2), torch.tensor([0]))  # beta = 0: no balancing
        >>> torch.isclose(value, 2 * torch.tensor(2.0).log())
        tensor(True)
    """

    reads_quality = True

    def row_losses(self, logits: Tensor, labels: Tensor, quality: Tensor | None = None) -> Tensor:
        """See the base class; needs counts."""
        weights = logits.new_ones(logits.shape[1:])
        return self._balance(cross_entropy_rows(logits, labels, weights, quality), labels)


@MODELS.register_module()
class ClassBalancedSoftmaxLoss(_ClassBalanced, SoftmaxLoss):
    """Class-balanced loss on a softmax.

    Args:
        beta (float): As in :class:`ClassBalancedSigmoidLoss`.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SoftmaxLoss`.

    Example:
        >>> loss = ClassBalancedSoftmaxLoss(num_classes=2, beta=0.9)
        >>> loss.set_class_counts(torch.tensor([1000, 1]))
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 1]), reduction_override="none")
        >>> torch.isclose(value[1] / value[0], torch.tensor(10.0))  # (1 - 0.9^1000) / 0.1 to 1
        tensor(True)
    """

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs counts."""
        return self._balance(F.cross_entropy(logits, labels, reduction="none"), labels)
