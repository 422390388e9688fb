"""What mmdet's box heads ask of a classifier with one sigmoid output per category.

The scores at test time and the accuracy that is logged are the same for every loss on C sigmoids
and stand here; see :mod:`mmdet_eql.losses.classifier` for the rest.

Glossary:
    N: number of proposals (RoIs) of a batch.
    C: number of foreground categories.
    labels: int64 of shape (N,), in [0, C); C means background.
"""

import math

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_eql.losses.classifier import ClassifierLoss, foreground_accuracy
from mmdet_eql.utils.errors import UserError


class SigmoidClassifierLoss(ClassifierLoss):
    """Base of the losses on C sigmoids without a background output.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
    """

    def num_logits(self) -> int:
        """C."""
        return self.num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores at test time.

        Args:
            cls_score (Tensor): Logits of shape (N, C).

        Returns:
            Tensor: Sigmoids with a zero background column appended, shape (N, C + 1).
        """
        self.check_logits(cls_score)
        scores = cls_score.sigmoid()
        return torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Accuracy that is logged during training.

        Args:
            cls_score (Tensor): Logits of shape (N, C).
            labels (Tensor): Labels of shape (N,).

        Returns:
            dict[str, Tensor]: ``acc_classes``, the percentage of foreground proposals whose
            highest logit is that of their category (0 if there is none).
        """
        return {"acc_classes": foreground_accuracy(cls_score, labels, self.num_classes)}


def one_hot_targets(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """y: one row per proposal, zero everywhere for background.

    Args:
        labels (Tensor): Labels of shape (N,).
        num_classes (int): C.
        dtype (torch.dtype): Type of the result.

    Returns:
        Tensor: y in {0, 1}, shape (N, C).
    """
    targets = labels.new_zeros(len(labels), num_classes + 1, dtype=dtype)
    targets.scatter_(1, labels.unsqueeze(1), 1)
    return targets[:, :num_classes]


@MODELS.register_module()
class PriorLinear(nn.Linear):
    """A linear classifier whose sigmoids start at a small probability.

    With C sigmoids at p = 0.5 the first steps push every logit down by gradients that grow with C;
    starting at ``prior_prob`` avoids them. To be used as ``bbox_head.cls_predictor_cfg``.

    Args:
        in_features (int): Size of a proposal's feature.
        out_features (int): Number of logits.
        bias (bool): Whether there is a bias; the prior needs one.
        prior_prob (float): Initial probability of each category, in (0, 1). The official code of
            EQL starts at 0.001.

    Raises:
        UserError: If ``prior_prob`` is not in (0, 1) or there is no bias.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, prior_prob: float = 0.001
    ) -> None:
        if not 0 < prior_prob < 1:
            raise UserError(
                f"cls_predictor_cfg.prior_prob is {prior_prob}; it must lie between 0 and 1."
            )
        if not bias:
            raise UserError(
                "cls_predictor_cfg: PriorLinear keeps its prior in the bias; leave out bias=False "
                "or use type='Linear'."
            )
        self.prior_prob = prior_prob
        super().__init__(in_features, out_features, bias=True)

    def init_weights(self) -> None:
        """Set the bias to -log((1 - p) / p); called by the box head after its own."""
        nn.init.constant_(self.bias, -math.log((1 - self.prior_prob) / self.prior_prob))
