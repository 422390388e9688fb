"""Equalization Loss v2 (EQL v2).

EQL needs the frequencies and a threshold. EQL v2 measures instead how far a category is pushed up
and down: it sums the absolute gradients that its logit receives from positives and from negatives
over the training, and weighs both by the ratio of the sums (arXiv 2012.08548):

    g_j = pos_j / neg_j,   r_j = f(g_j),   q_j = 1 + alpha (1 - f(g_j)),
    f(x) = 1 / (1 + exp(-gamma (x - mu))),
    L = - sum_j [q_j y_j log p_j + r_j (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j)

r_j weighs the negatives and q_j the positives of category j; both enter the sums too. In a box head
there are C + 1 sigmoids: the last tells background from objects, its weights are 1 and it has no
sums. Dense and query heads have no such output, and the loss does without it, as its author
answers for one-stage detectors (tztztztztz/eqlv2, issue 14). There the unassigned anchors, points
and queries are negatives of every category and enter neg_j. A quality that the head gives is y_j
at the label. For N, C, K, cls_score, labels and quality see :mod:`mmdet_eql.losses.base`.
"""

import math

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import ObjectnessLoss, check_number
from mmdet_eql.losses.class_statistics import GradientSums
from mmdet_eql.losses.focal_rows import Losses, cross_entropy_negatives, cross_entropy_positives
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class EqualizationLossV2(GradientSums, ObjectnessLoss):
    """Equalization Loss v2 for the heads of mmdet.

    The running sums (:class:`~mmdet_eql.losses.class_statistics.GradientSums`) are in the
    checkpoint. ``forward`` adds to them in training mode with gradients enabled only, over all
    ranks.

    Start the classifier of a box head at a small probability, as the authors do for all C + 1
    outputs:
    ``bbox_head=dict(cls_predictor_cfg=dict(type="PriorLinear"))``.

    Args:
        gamma (float): Steepness of f.
        mu (float): Gradient ratio at which f is one half.
        alpha (float): Largest extra weight of the positives.
        test_with_objectness (bool): Whether the scores of the categories are multiplied by
            1 - p(background) at test time.
        use_sigmoid (bool): True in a dense or query head, which has C outputs and no objectness;
            False in a box head.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`; the sums do not depend on
            ``reduction`` and ``loss_weight``.

    Example:
        >>> loss = EqualizationLossV2(num_classes=2)
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 2]))  # all weights are 1 at first
        >>> torch.isclose(value, 3 * torch.tensor(2.0).log())
        tensor(True)
        >>> loss.pos_grad.tolist(), loss.neg_grad.tolist()
        ([0.5, 0.0], [0.5, 1.0])
    """

    reads_quality = reads_weight = True

    def __init__(
        self,
        num_classes: int | None = None,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        test_with_objectness: bool = True,
        use_sigmoid: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if use_sigmoid and (gamma, alpha) == (2.0, 0.25):
            raise UserError(
                "loss_cls: gamma=2.0 and alpha=0.25 are those of the FocalLoss of the base config, "
                "and mean something else in EqualizationLossV2; write "
                "loss_cls=dict(_delete_=True, type='EqualizationLossV2', use_sigmoid=True)."
            )
        self.use_sigmoid = use_sigmoid
        self.extra_logits = 0 if use_sigmoid else 1
        check_number("gamma", gamma)
        check_number("alpha", alpha)
        check_number("mu", mu, low=-math.inf)
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        self.test_with_objectness = test_with_objectness

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """Return q_j and r_j for the next forward pass, each float64 of shape (K,): all are 1
        before the first samples, and those of background always."""
        negative = torch.sigmoid(self.gamma * (self.gradient_ratio() - self.mu))
        negative = torch.where(self.num_seen > 0, negative, torch.ones_like(negative))
        negative = F.pad(negative, (0, self.extra_logits), value=1.0)
        return 1 + self.alpha * (1 - negative), negative

    def row_losses(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None, quality: Tensor | None = None
    ) -> Tensor:
        """See the base class; in training adds to the running sums, which ``weight`` enters."""
        of_positive, of_negative = (weights.to(logits.dtype) for weights in self.class_weights())

        def positives(at_label: Tensor, label: Tensor, target: Tensor | None) -> Losses:
            loss, derivative = cross_entropy_positives(at_label, target)
            return of_positive[label] * loss, of_positive[label] * derivative

        how = cross_entropy_negatives, of_negative, positives, quality
        return self.with_sums(logits, labels, weight, *how)
