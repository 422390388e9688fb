"""The bases of the classification losses: what mmdet's box heads ask of ``loss_cls``.

A box head leaves the number of logits, the scores at test time and the logged accuracy to a loss
with ``custom_cls_channels``, ``custom_activation`` and ``custom_accuracy``. A new loss derives from
:class:`SigmoidLoss` or :class:`SoftmaxLoss` and defines ``row_losses``.

Glossary of all losses:
    N: number of proposals (RoIs) of a batch, or of images in image classification.
    C: number of foreground categories.
    K: number of logits: C for sigmoids; C + 1 for a softmax with background, C without.
    cls_score: z, logits of shape (N, K).
    labels: int64 of shape (N,), in [0, C); C means background.
    f_j: frequency, the share of the training images that contain category j, shape (C,).
    n_j: number of training instances (images in image classification) of category j, shape (C,).
"""

import math

import torch
from mmdet.models.losses import accuracy
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


class ClassificationLoss(nn.Module):
    """Base of all losses; a UserError if an argument is out of range.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the N rows; over the logits of a
            row the loss is always summed.
        loss_weight (float): Factor on the loss.
    """

    custom_cls_channels = custom_activation = custom_accuracy = True
    extra_logits = 0  #: K - C

    def __init__(
        self, num_classes: int | None = None, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if reduction not in ("none", "mean", "sum"):
            raise UserError(f"loss_cls.reduction is {reduction!r}; choose 'none', 'mean' or 'sum'.")
        self.num_classes = num_classes
        self.reduction = reduction
        self.loss_weight = loss_weight

    def get_cls_channels(self, num_classes: int) -> int:
        """Return K for the box head's C; a UserError if the loss was configured for another C."""
        self.num_classes = self.num_classes or num_classes
        if self.num_classes != num_classes:
            raise UserError(
                f"loss_cls.num_classes is {self.num_classes}, but bbox_head.num_classes is "
                f"{num_classes}; make them equal, or leave out loss_cls.num_classes."
            )
        return num_classes + self.extra_logits

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, shape (N,), for checked logits in float32 or float64."""
        raise NotImplementedError

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs,
    ) -> Tensor:
        """Compute the loss of logits (N, K) and labels (N,): a scalar, or (N,) under ``"none"``.

        ``label_weights`` (N,) weigh the rows; ``avg_factor``, by default N, divides the sum under
        ``"mean"``; ``reduction_override`` replaces ``reduction``; ``row_losses`` gets the rest. A
        UserError if the logits have another shape, or class statistics are missing.
        """
        self.check_logits(cls_score)
        losses = self.row_losses(full_precision(cls_score), labels, **kwargs)
        return self.reduce(losses, label_weights, avg_factor, reduction_override)

    def reduce(self, losses: Tensor, weights=None, avg_factor=None, override=None) -> Tensor:
        """Weigh and reduce row losses of shape (N,), with the arguments of ``forward``."""
        reduction = override or self.reduction
        if len(losses) == 0 and reduction == "mean" and avg_factor is None:
            reduction = "sum"  # the mean over nothing is NaN
        return self.loss_weight * weight_reduce_loss(losses, weights, reduction, avg_factor)

    def check_logits(self, cls_score: Tensor) -> None:
        """Raise a UserError with the config key to change, unless the shape is (N, K)."""
        if self.num_classes is None:
            raise UserError("loss_cls: unknown number of categories; set loss_cls.num_classes.")
        expected, got = self.num_classes + self.extra_logits, cls_score.shape[1:]
        if got != (expected,):
            raise UserError(
                f"{type(self).__name__} needs {expected} logits for {self.num_classes} categories, "
                f"but the classifier gives {'x'.join(map(str, got))}; correct num_classes of the "
                "box head, or use one that asks for 'custom_cls_channels', as mmdet's BBoxHead."
            )


class SigmoidLoss(ClassificationLoss):
    """Base of the losses on C sigmoids without a background output."""

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: sigmoids and a zero background column, shape (N, C + 1)."""
        self.check_logits(cls_score)
        return nn.functional.pad(cls_score.sigmoid(), (0, 1))

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc_classes``, see :func:`foreground_accuracy`."""
        return {"acc_classes": foreground_accuracy(cls_score, labels)}


class SoftmaxLoss(ClassificationLoss):
    """Base of the losses on a softmax; ``has_background=False`` for image classifiers (K = C)."""

    def __init__(self, num_classes=None, has_background: bool = True, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self.has_background = has_background
        self.extra_logits = int(has_background)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: the softmax, shape (N, K)."""
        self.check_logits(cls_score)
        return cls_score.softmax(dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc``, over all rows and logits, and ``acc_classes``, over the foreground."""
        of_classes = foreground_accuracy(cls_score[:, : self.num_classes], labels)
        return {"acc": accuracy(cls_score, labels), "acc_classes": of_classes}


def check_number(name: str, value: float, low: float = 0, high: float = math.inf) -> None:
    """Raise a UserError unless the argument of a loss is finite and in [low, high]."""
    if not (low <= value <= high and math.isfinite(value)):
        limits = f"be a number of at least {low}"
        if high < math.inf:
            limits = f"lie between {low} and {high}"
        elif low == -math.inf:
            limits = "be a finite number"
        raise UserError(f"loss_cls.{name} is {value}; it must {limits}.")


def full_precision(cls_score: Tensor) -> Tensor:
    """Return logits in at least float32: half precision loses small terms of a long sum."""
    return cls_score.to(torch.promote_types(cls_score.dtype, torch.float32))


def one_hot_targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Return y in {0, 1}, with shape (N, C) and type of the logits; background rows are zero."""
    targets = logits.new_zeros(len(logits), logits.shape[1] + 1)
    return targets.scatter_(1, labels[:, None], 1)[:, :-1]


def foreground_accuracy(cls_score: Tensor, labels: Tensor) -> Tensor:
    """Return the percentage of foreground rows whose highest of C logits is their label, or 0."""
    foreground = (labels < cls_score.shape[1]).nonzero().squeeze(1)
    return accuracy(cls_score[foreground], labels[foreground])
