"""Focal loss for the heads of mmdet.

    L = - sum_j alpha_j (1 - q_j)^gamma log q_j,   q_j = p_j if y_j = 1 else 1 - p_j,

p_j = sigmoid(z_j), alpha_j = alpha for a positive and 1 - alpha for a negative (arXiv 1708.02002,
equation 5). mmdet's ``FocalLoss`` is made for dense heads: it has no background column at test
time. A quality that a head gives with the labels is not read. For N, C and labels see
:mod:`mmdet_eql.losses.base`.
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, check_number
from mmdet_eql.losses.focal_rows import focal_negatives, rows_with_gradient


@MODELS.register_module()
class SigmoidFocalLoss(SigmoidLoss):
    """Focal loss on C sigmoids without a background output.

    Args:
        gamma (float): Focusing parameter, at least 0; 0 is a weighted cross-entropy.
        alpha (float, optional): Weight of the positives in [0, 1]; None weighs nothing.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> import torch
        >>> loss = SigmoidFocalLoss(num_classes=2, gamma=2.0, alpha=None)
        >>> value = loss(torch.zeros(1, 2), torch.tensor([0]))
        >>> torch.isclose(value, 2 * 0.25 * torch.tensor(2.0).log())
        tensor(True)
    """

    def __init__(
        self, num_classes=None, gamma: float = 2.0, alpha: float | None = 0.25, **kwargs
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("gamma", gamma)
        if alpha is not None:
            check_number("alpha", alpha, high=1)
        self.gamma = gamma
        self.alpha = alpha

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        of_positive = 1.0 if self.alpha is None else self.alpha
        of_negative = 1.0 if self.alpha is None else 1 - self.alpha
        focusing = logits.new_full(logits.shape[1:], self.gamma)

        def positives(at_label: Tensor, label: Tensor, _: None) -> tuple[Tensor, Tensor]:
            loss, derivative = focal_negatives(-at_label, focusing[label])
            return of_positive * loss, -of_positive * derivative

        factor = torch.full_like(focusing, of_negative)
        return rows_with_gradient(
            logits, labels, lambda z: focal_negatives(z, focusing), factor, positives
        )
