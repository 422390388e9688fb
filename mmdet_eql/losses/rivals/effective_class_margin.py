"""Effective class-margin loss (ECM).

A bound on the error of the average precision asks for margins that follow from the numbers of
positives and negatives of a category (arXiv 2301.09724). With n_j samples of category j, background
the last, out of n in all, the margins are proportional to n_j^(-1/4) and (n - n_j)^(-1/4), and

    s_j = w+_j exp(z_j) / (w+_j exp(z_j) + w-_j exp(-z_j)) = sigmoid(2 z_j + log(w+_j / w-_j)),
    w+_j / w-_j = (n_j / (n - n_j))^(1/4),
    L = - sum_j m_j [y_j log s_j + (1 - y_j) log(1 - s_j)],
    m_j = a_j log(1 + 1 / a_j),   a_j = (n - n_j) / n_j   (theorem 2)

over C + 1 outputs. Scores at test time are sigmoid(z_j), of the categories times
1 - sigmoid(z_background). Only ratios of the n_j count: the authors' code (janghyuncho/ECM-Loss)
takes image counts, and background as 6.3313 times their sum. For N, C, f_j and labels see
:mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import ObjectnessLoss, check_number, one_hot_targets
from mmdet_eql.losses.class_statistics import FrequencyAware
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class EffectiveClassMarginLoss(FrequencyAware, ObjectnessLoss):
    """Effective class-margin loss on C + 1 sigmoids, the last for background, for box heads.

    A category that never occurs in training counts as often as the rarest that does. The authors
    train with mmdet's ``NormedLinear`` as ``cls_predictor_cfg``.

    Args:
        background_ratio (float): Background proposals per foreground proposal, greater than 0; the
            authors' is measured on Mask R-CNN.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = EffectiveClassMarginLoss(num_classes=2, background_ratio=1.0)
        >>> loss.set_class_frequency(torch.tensor([0.5, 0.5]))
        >>> shift, weight = loss.margins()  # n_j is 1/4, 1/4 and 1/2 of n
        >>> torch.isclose(shift.exp() ** 4, torch.tensor([1 / 3, 1 / 3, 1], dtype=torch.float64))
        tensor([True, True, True])
    """

    box_heads_only = True

    def __init__(
        self, num_classes: int | None = None, background_ratio: float = 6.3313, **kwargs
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("background_ratio", background_ratio)
        if background_ratio == 0:
            raise UserError("loss_cls.background_ratio is 0; it must be greater than 0.")
        self.background_ratio = background_ratio

    def margins(self) -> tuple[Tensor, Tensor]:
        """Return log(w+ / w-) and m of each output, float64 of shape (C + 1,); a UserError if the
        frequencies are missing, or no category occurs."""
        freq = self.occurring_class_frequency()
        count = torch.cat([freq, self.background_ratio * freq.sum()[None]])
        odds = (count.sum() - count) / count
        return -0.25 * odds.log(), odds * (1 / odds).log1p()

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs frequencies."""
        shift, weight = (values.to(logits.dtype) for values in self.margins())
        targets = one_hot_targets(labels, logits)
        losses = F.binary_cross_entropy_with_logits(
            2 * logits + shift, targets, weight.expand_as(targets), reduction="none"
        )
        return losses.sum(dim=1)
