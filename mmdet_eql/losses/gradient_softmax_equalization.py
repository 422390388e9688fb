"""Gradient-driven Softmax Equalization Loss: the softmax of "The Equalization Losses".

Not SEQL, the softmax form of the first EQL paper (:mod:`mmdet_eql.losses.softmax_equalization`),
which ignores categories of low frequency at random. Here, as in EQL v2, no frequency is known: the
positive gradients m_j that category j received over the training tell how far it is trained, and
the logits of the others are shifted by their ratio to the label's (arXiv 2210.05566; as in the
authors' code, ModelTC/United-Perception, ``softmax_eql``):

    L = - sum_j y_j log p~_j,   p~ = softmax(z + tau log(m / m_y)),   m_j clamped to at least 1e-4.

m_j sums 1 - p~_j over the samples of category j, divided by the samples of the batch, on all ranks;
the division matters beside the clamp. The losses of detection in that paper are EQL v2, which it
calls sigmoid EQL, and EFL. For N, C, z and labels see :mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.dist import get_world_size
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss, check_number, one_hot_targets
from mmdet_eql.losses.class_statistics import GradientSums

#: Below it, a sum of gradients counts as this.
_SMALLEST = 1e-4


@MODELS.register_module()
class GradientSoftmaxEqualizationLoss(GradientSums, SoftmaxLoss):
    """Gradient-driven softmax EQL for image classifiers; the scores are the softmax of z.

    ``forward`` adds to the sums in training mode with gradients enabled only. They are those of the
    mean loss over the batches of all ranks, which are taken to be of one size, without the weights
    of samples.

    Args:
        tau (float): Strength of the shift, at least 0; 0 is softmax cross-entropy.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SoftmaxLoss` but ``has_background``.

    Example:
        >>> loss = GradientSoftmaxEqualizationLoss(num_classes=2)
        >>> value = loss(torch.zeros(2, 2), torch.tensor([0, 0]))  # no shift at first
        >>> torch.isclose(value, torch.tensor(2.0).log())
        tensor(True)
        >>> loss.pos_grad.tolist(), loss.neg_grad.tolist()
        ([0.5, 0.0], [0.0, 0.5])
    """

    def __init__(self, num_classes: int | None = None, tau: float = 1.0, **kwargs) -> None:
        super().__init__(num_classes, has_background=False, **kwargs)
        check_number("tau", tau)
        self.tau = tau

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        # log(m_y), the same for all logits of a row, cancels.
        shift = self.tau * self.pos_grad.clamp(min=_SMALLEST).log()
        shifted = logits + shift.to(logits.dtype)
        if self.training and torch.is_grad_enabled():
            self._record(shifted.detach(), labels)
        return F.cross_entropy(shifted, labels, reduction="none")

    def _record(self, shifted: Tensor, labels: Tensor) -> None:
        own = one_hot_targets(labels, shifted)
        gradient = (shifted.softmax(dim=1) - own).abs()
        size = max(len(labels), 1) * get_world_size()
        positive, negative = (
            (gradient * is_of).sum(dim=0, dtype=torch.float64) / size for is_of in (own, 1 - own)
        )
        self.add_pass(positive, negative, len(labels))
