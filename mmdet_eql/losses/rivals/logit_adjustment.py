"""Post-hoc logit adjustment: a trained softmax classifier, scored as if categories were balanced.

Training is softmax cross-entropy. At test time the logits of the categories are lowered by the
logarithm of how common they are, z_j - tau log pi_j (arXiv 2007.07314). Annotations
define no such prior of background, so that a proposal keeps its probability of background, and what
remains is shared out anew:

    p_j = (1 - p_background) softmax_j(z - tau log pi)    over the C categories.

pi_j is proportional to f_j; its scale cancels. For N, C, K and f_j see
:mod:`mmdet_eql.losses.base`.
"""

import math

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss, check_number, full_precision
from mmdet_eql.losses.class_statistics import FrequencyAware


@MODELS.register_module()
class LogitAdjustedSoftmaxLoss(FrequencyAware, SoftmaxLoss):
    """Softmax cross-entropy in training, adjusted scores in evaluation.

    Adjustment happens in ``eval()`` mode only: a cascade that refines boxes during training uses
    the classifier as it is trained. The classifier is that of plain softmax cross-entropy, so that
    ``tau`` can be changed from test to test, and 0 gives the plain softmax.

    Args:
        tau (float): Strength of the adjustment.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SoftmaxLoss`.

    Example:
        >>> loss = LogitAdjustedSoftmaxLoss(num_classes=2, has_background=False).eval()
        >>> loss.set_class_frequency(torch.tensor([0.9, 0.1]))
        >>> loss.get_activation(torch.zeros(1, 2))
        tensor([[0.1000, 0.9000]])
    """

    #: Asks ClassFrequencyHook to count the training set if a checkpoint has no frequencies.
    scores_need_class_frequency = True

    def __init__(self, num_classes: int | None = None, tau: float = 1.0, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("tau", tau, low=-math.inf)
        self.tau = tau

    def adjustment(self) -> Tensor:
        """Return tau log pi_j of each category, float64 of shape (C,).

        A category that never occurs in training is taken to be as common as the rarest that does. A
        UserError if the frequencies are missing, or no category occurs.
        """
        return self.tau * self.occurring_class_frequency().log()

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores of shape (N, K): adjusted in evaluation, a plain softmax in training. A
        UserError if the logits are of another shape, or the frequencies are missing."""
        scores = super().get_activation(cls_score)
        if self.training or self.tau == 0:
            return scores
        logits = full_precision(cls_score[:, : self.num_classes])
        adjusted = (logits - self.adjustment().to(logits.dtype)).softmax(dim=1).to(scores.dtype)
        foreground, background = scores.tensor_split([self.num_classes], dim=1)
        return torch.cat([adjusted * foreground.sum(dim=1, keepdim=True), background], dim=1)

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return softmax cross-entropy; needs no frequencies."""
        return F.cross_entropy(logits, labels, reduction="none")
