"""What mmdet's box heads ask of a classification loss that chooses its own logits.

A box head of mmdet 3.x leaves four things to a loss that announces them by the attributes
``custom_cls_channels``, ``custom_activation`` and ``custom_accuracy``: the number of logits, the
scores at test time, the accuracy that is logged, and the loss. What does not depend on the layout
of the logits stands here.

Glossary:
    N: number of proposals (RoIs) of a batch.
    C: number of foreground categories.
    cls_score: z, logits of shape (N, K); a subclass says what K is.
    labels: int64 of shape (N,), in [0, C); C means background.
"""

import torch
from mmdet.models.losses import accuracy
from torch import Tensor, nn

from mmdet_eql.losses.reduction import reduce_rows
from mmdet_eql.utils.errors import UserError


class ClassifierLoss(nn.Module):
    """Base of the losses that choose their logits; a subclass gives ``num_logits``, and
    either ``row_losses`` with the attributes ``reduction`` and ``loss_weight``, or a ``forward`` of
    its own.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes

    def num_logits(self) -> int:
        """K, for ``self.num_classes`` categories."""
        raise NotImplementedError

    def get_cls_channels(self, num_classes: int) -> int:
        """Number of logits that the classifier must have.

        Args:
            num_classes (int): C of the box head.

        Returns:
            int: K.

        Raises:
            UserError: If the loss was configured for another C.
        """
        if self.num_classes is None:
            self.num_classes = num_classes
        if self.num_classes != num_classes:
            raise UserError(
                f"loss_cls.num_classes is {self.num_classes}, but bbox_head.num_classes is "
                f"{num_classes}; make them equal, or leave out loss_cls.num_classes."
            )
        return self.num_logits()

    def row_losses(self, cls_score: Tensor, labels: Tensor) -> Tensor:
        """The loss of each proposal, for logits that were checked.

        Args:
            cls_score (Tensor): Logits of shape (N, K).
            labels (Tensor): Labels of shape (N,).

        Returns:
            Tensor: Loss of shape (N,).
        """
        raise NotImplementedError

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss from that of each proposal, ``reduction`` and ``loss_weight``.

        Args:
            cls_score (Tensor): Logits of shape (N, K).
            labels (Tensor): Labels of shape (N,).
            label_weights (Tensor, optional): Weight of each proposal, shape (N,).
            avg_factor (float, optional): What the sum is divided by under ``"mean"``; the number
                of proposals by default.
            reduction_override (str, optional): Replaces ``reduction`` for this call.

        Returns:
            Tensor: A scalar, or shape (N,) under ``"none"``.

        Raises:
            UserError: If the logits are not of shape (N, K), or frequencies or counts that the loss
                needs are missing.
        """
        self.check_logits(cls_score)
        losses = self.row_losses(cls_score, labels)
        reduction = reduction_override or self.reduction
        return self.loss_weight * reduce_rows(losses, label_weights, reduction, avg_factor)

    def check_logits(self, cls_score: Tensor) -> None:
        """Refuse logits that are not of shape (N, K).

        Raises:
            UserError: With both numbers and the config key to change.
        """
        if self.num_classes is None:
            raise UserError(
                f"{type(self).__name__} does not know the number of categories; set "
                "loss_cls.num_classes."
            )
        if cls_score.shape[1:] != (self.num_logits(),):
            raise UserError(
                f"{type(self).__name__} needs {self.num_logits()} logits per proposal for "
                f"{self.num_classes} categories, but the classifier gives "
                f"{'x'.join(map(str, cls_score.shape[1:]))}; set bbox_head.num_classes and "
                "loss_cls.num_classes to the number of categories, and use a box head that asks "
                "its loss for the channels ('custom_cls_channels', as mmdet's BBoxHead does)."
            )


def full_precision(cls_score: Tensor) -> Tensor:
    """Logits in float32, or float64 if they are: in half precision a sum over a thousand
    categories or proposals loses its smaller terms."""
    return cls_score if cls_score.dtype == torch.float64 else cls_score.float()


def foreground_accuracy(cls_score: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The share of foreground proposals whose highest category is theirs.

    Args:
        cls_score (Tensor): Logits of the categories (background's left out), shape (N, C).
        labels (Tensor): Labels of shape (N,).
        num_classes (int): C.

    Returns:
        Tensor: A percentage; 0 if there is no foreground.
    """
    # Found once, not by two masks: each would wait for the GPU.
    foreground = (labels < num_classes).nonzero().squeeze(1)
    return accuracy(cls_score[foreground], labels[foreground])
