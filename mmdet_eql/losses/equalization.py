"""Equalization Loss (EQL).

For a rare category every positive of another category is a negative, and these discouraging
gradients outweigh its few encouraging ones. EQL ignores them:

    L = - sum_j w_j [y_j log p_j + (1 - y_j) log(1 - p_j)],   p_j = sigmoid(z_j),
    w_j = 1 - E(r) T(f_j) (1 - y_j)

(arXiv 2003.05176, equations 3 and 4). E(r) is 1 for a foreground proposal and 0 for background, so
that background still pushes every category down; T(f) marks the tail, see
:mod:`mmdet_eql.losses.tail_weighting`.

The paper knows proposals alone. In other heads, r is foreground if the head assigned it to an
object: an anchor of RetinaNet, ATSS, GFL or TOOD, a point of FCOS or RTMDet, a matched query of the
DETR family, or one that denoises an object. All others are background, ignored anchors weigh 0.
YOLOX asks for the categories of assigned points alone, so that its background pushes none down.
Where a head gives the quality of a positive, it is y_j at its label, as in the head's own loss; the
weight there stays 1. With T = 0 this is then sigmoid cross-entropy.

Glossary, and that of :mod:`mmdet_eql.losses.base`:
    verified: boolean of shape (B, C); whether image b, of B, is known to contain, or known not to
        contain, category j.
    image: int64 of shape (N,); the image of each proposal, in [0, B).
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, wanted_labels
from mmdet_eql.losses.focal_rows import cross_entropy_rows
from mmdet_eql.losses.tail_weighting import DEFAULT_LAMBDA, TailAware


@MODELS.register_module()
class EqualizationLoss(TailAware, SigmoidLoss):
    """Equalization Loss for the heads of mmdet.

    Args:
        lambda_, tail_weighting: Those of :class:`~mmdet_eql.losses.tail_weighting.TailAware`;
            lambda_ = 0 is the plain sigmoid baseline.
        exclude_background (bool): Whether background proposals keep pushing tail categories down,
            i.e. whether E(r) is used. Without it E(r) = 1 for every proposal.
        image_level_labels (bool): Whether a tail category keeps its negative gradient in images
            that are verified to contain it or not to contain it (section 4.2). Needs a head that
            passes image-level labels on: see :mod:`mmdet_eql.heads.image_level_labels`. The
            official code leaves this out.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = EqualizationLoss(num_classes=3, lambda_=0.1)
        >>> loss.set_class_frequency(torch.tensor([0.5, 0.2, 0.01]))
        >>> value = loss(torch.zeros(2, 3), torch.tensor([0, 3]))  # a positive, a background
        >>> torch.isclose(value, torch.tensor(2.5) * torch.log(torch.tensor(2.0)))
        tensor(True)
    """

    reads_quality = True

    def __init__(
        self,
        num_classes: int | None = None,
        lambda_: float | None = DEFAULT_LAMBDA,
        exclude_background: bool = True,
        tail_weighting: dict | None = None,
        image_level_labels: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, lambda_, tail_weighting, **kwargs)
        self.exclude_background = exclude_background
        self.image_level_labels = image_level_labels

    def row_losses(
        self,
        logits: Tensor,
        labels: Tensor,
        verified: Tensor | None = None,
        image: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each proposal; ``image_level_labels`` needs ``verified`` and
        ``image``."""
        verified = wanted_labels(self, verified)
        excluded = labels < self.num_classes
        if not self.exclude_background:
            excluded = torch.ones_like(excluded)
        tail = self.tail_weights().to(logits.dtype)

        def weights(rows: slice) -> Tensor:
            if not excluded[rows].any():  # most rows of a dense head
                return torch.ones_like(tail)
            weights = 1 - excluded[rows, None] * tail
            return weights if verified is None else weights.masked_fill_(verified[image[rows]], 1)

        return cross_entropy_rows(logits, labels, weights, quality)
