"""Equalization Loss v2 (EQL v2).

EQL needs the frequencies and a threshold. EQL v2 measures instead how far a category is pushed up
and down: it sums the absolute gradients that its logit receives from positives and from negatives
over the training, and weighs both by the ratio of the sums (arXiv 2012.08548):

    g_j = pos_j / neg_j,   r_j = f(g_j),   q_j = 1 + alpha (1 - f(g_j)),
    f(x) = 1 / (1 + exp(-gamma (x - mu))),
    L = - sum_j [q_j y_j log p_j + r_j (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j)

r_j weighs the negatives and q_j the positives of category j; both enter the sums too. There are
C + 1 sigmoids: the last tells background from objects, its weights are 1 and it has no sums. For
N, C, cls_score and labels see :mod:`mmdet_eql.losses.base`.
"""

import math

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import (
    ClassificationLoss,
    check_number,
    foreground_accuracy,
    full_precision,
)
from mmdet_eql.losses.class_statistics import GradientSums


@MODELS.register_module()
class EqualizationLossV2(GradientSums, ClassificationLoss):
    """Equalization Loss v2 for the box heads of mmdet.

    The running sums (:class:`~mmdet_eql.losses.class_statistics.GradientSums`) are in the
    checkpoint. ``forward`` adds to them in training mode with gradients enabled only, over all
    ranks, and so has to happen on every rank.

    Start the classifier at a small probability, as the authors do for all C + 1 outputs:
    ``bbox_head=dict(cls_predictor_cfg=dict(type="PriorLinear"))``.

    Args:
        gamma (float): Steepness of f.
        mu (float): Gradient ratio at which f is one half.
        alpha (float): Largest extra weight of the positives.
        test_with_objectness (bool): Whether the scores of the categories are multiplied by
            1 - p(background) at test time.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.ClassificationLoss`; the sums do not
            depend on ``reduction`` and ``loss_weight``.

    Example:
        >>> loss = EqualizationLossV2(num_classes=2)
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 2]))  # all weights are 1 at first
        >>> torch.isclose(value, 3 * torch.tensor(2.0).log())
        tensor(True)
        >>> loss.pos_grad.tolist(), loss.neg_grad.tolist()
        ([0.5, 0.0], [0.5, 1.0])
    """

    extra_logits = 1

    def __init__(
        self,
        num_classes: int | None = None,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        test_with_objectness: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("gamma", gamma)
        check_number("alpha", alpha)
        check_number("mu", mu, low=-math.inf)
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        self.test_with_objectness = test_with_objectness

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: sigmoids, those of the categories multiplied by 1 - p(background),
        shape (N, C + 1)."""
        self.check_logits(cls_score)
        categories, background = cls_score.sigmoid().tensor_split([self.num_classes], dim=1)
        if self.test_with_objectness:
            categories = categories * (1 - background)
        return torch.cat([categories, background], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc_objectness``, the percentage of rows whose last output tells background from
        objects correctly, and ``acc_classes``, see ``foreground_accuracy``."""
        background = cls_score[:, -1]
        objectness = torch.stack([-background, background], dim=1)
        return {
            "acc_objectness": accuracy(objectness, (labels == self.num_classes).long()),
            "acc_classes": foreground_accuracy(cls_score[:, :-1], labels),
        }

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """Return q_j and r_j for the next forward pass, each float64 of shape (C + 1,): all are 1
        before the first proposals, and those of background always."""
        negative = torch.sigmoid(self.gamma * (self.gradient_ratio() - self.mu))
        negative = torch.where(self.num_seen > 0, negative, torch.ones_like(negative))
        negative = F.pad(negative, (0, 1), value=1.0)
        return 1 + self.alpha * (1 - negative), negative

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss as the base class does, and in training add to the running sums;
        ``label_weights`` enter both."""
        self.check_logits(cls_score)
        logits = full_precision(cls_score)
        targets = torch.zeros_like(logits).scatter_(1, labels[:, None], 1)
        positive, negative = (weights.to(logits.dtype) for weights in self.class_weights())
        weights = torch.where(targets > 0, positive, negative)
        losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
        if self.training and torch.is_grad_enabled():
            gradient = (logits.detach().sigmoid() - targets).abs() * weights
            if label_weights is not None:
                gradient = gradient * label_weights[:, None]
            # Background, the last, has no sums.
            positive = (gradient * targets)[:, :-1].sum(dim=0, dtype=torch.float64)
            negative = (gradient * (1 - targets))[:, :-1].sum(dim=0, dtype=torch.float64)
            self.add_gradients(positive, negative, len(logits))
        return self.reduce(losses.sum(dim=1), label_weights, avg_factor, reduction_override)
