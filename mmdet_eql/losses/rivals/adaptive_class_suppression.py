"""Adaptive class suppression loss (ACSL): only what a category is confused with pushes it down.

    L = - sum_j w_j [y_j log p_j + (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j)

over C + 1 outputs, the last for background. A foreground proposal has w_j = 1 at its label and
where p_j >= xi, 0 elsewhere (arXiv 2104.00885). The authors' code (CASIA-IVA-Lab/ACSL) adds what
background proposals teach: all of them the output for background and the frequent categories, a
tenth the common ones, and a hundredth the rare, drawn anew for each batch. It trains the last layer
of a detector that was trained with softmax, and freezes all else. For N, C, f_j and labels see
:mod:`mmdet_eql.losses.base`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import ObjectnessLoss, check_number, one_hot_targets
from mmdet_eql.losses.class_statistics import FrequencyAware
from mmdet_eql.utils.errors import UserError

#: Share of the background proposals that teaches the rare categories, and the common ones.
_SHARES = (0.01, 0.1)


@MODELS.register_module()
class AdaptiveClassSuppressionLoss(FrequencyAware, ObjectnessLoss):
    """Adaptive class suppression loss for box heads; the scores are plain sigmoids.

    The draw comes from torch's generator of the device of the logits; ranks draw from their own
    proposals. The authors start the classifier at a probability of 0.01:
    ``cls_predictor_cfg=dict(type="PriorLinear", prior_prob=0.01)``.

    Args:
        threshold (float): xi, a probability.
        limits (Sequence[float]): Two ascending frequencies, between rare, common and frequent
            categories; those of LVIS v0.5 by default, whose rare categories are in up to 10 images
            and the common ones in up to 100. For LVIS v1 they are 1.005e-4 and 1.005e-3.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = AdaptiveClassSuppressionLoss(num_classes=2)
        >>> loss.set_class_frequency(torch.tensor([0.5, 1e-5]))
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 2]))  # label; background and frequent
        >>> torch.isclose(value, 1.5 * torch.tensor(2.0).log())
        tensor(True)
    """

    box_heads_only = True
    test_with_objectness = False

    def __init__(
        self,
        num_classes: int | None = None,
        threshold: float = 0.7,
        limits: Sequence[float] = (1.76e-4, 1.76e-3),
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("threshold", threshold, high=1)
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise UserError(f"loss_cls.limits is {limits}; give two ascending frequencies.")
        self.threshold = threshold
        self.limits = tuple(limits)

    def draw_background(self, labels: Tensor) -> Tensor:
        """Return which background proposals teach each category, boolean of shape (N, C)."""
        freq = self.known_class_frequency()
        groups = torch.bucketize(freq, freq.new_tensor(self.limits), right=True)
        background = labels == self.num_classes
        teaches = background[:, None].repeat(1, len(self.limits) + 1)
        for group, share in enumerate(_SHARES):
            keys = torch.rand(len(labels), device=labels.device).masked_fill(~background, 2.0)
            place = keys.argsort().argsort()
            teaches[:, group] &= place < (background.sum() * share).floor()
        return teaches[:, groups]

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs frequencies."""
        targets = one_hot_targets(labels, logits)
        is_foreground = (labels < self.num_classes)[:, None]
        confused = is_foreground & (logits.detach().sigmoid() >= self.threshold)
        weights = confused | F.pad(self.draw_background(labels), (0, 1)) | (targets > 0)
        weights = weights.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
        return losses.sum(dim=1)
