"""The bases of the classification losses: what mmdet's heads ask of ``loss_cls``.

A box head leaves the number of logits, the scores at test time and the logged accuracy to a loss
with ``custom_cls_channels``, ``custom_activation`` and ``custom_accuracy``. Dense and query heads
ask for ``use_sigmoid``, with which they have C outputs, and may give a quality (IoU) with each
label; :mod:`mmdet_eql.losses.head_contract` holds which head works with which loss. A new loss
derives from :class:`SigmoidLoss` or :class:`SoftmaxLoss` and defines ``row_losses``.

Glossary of all losses:
    N: number of samples of a batch: proposals (RoIs) of a box head, anchors or points of a dense
        head, queries of a query head, images in image classification.
    C: number of foreground categories.
    K: number of logits: C for sigmoids; C + 1 for a softmax with background, C without.
    cls_score: z, logits of shape (N, K).
    labels: int64 of shape (N,), in [0, C); C means background: a proposal, anchor, point or query
        that is assigned to no object. Ignored samples have a weight of 0.
    quality: q in [0, 1] of shape (N,), the target of the positives of GFL, TOOD, RTMDet and YOLOX.
    f_j: frequency, the share of the training images that contain category j, shape (C,).
    n_j: number of training instances (images in image classification) of category j, shape (C,).
"""

import math
from collections.abc import Sequence

import torch
from mmdet.models.losses import accuracy
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError

#: What is wrong with a use_sigmoid that is True or False.
_USE_SIGMOID = {
    True: (
        "has no sigmoids for the C outputs of a dense or query head; leave out use_sigmoid in a "
        "box head, or choose another loss."
    ),
    False: (
        "works on sigmoids, but use_sigmoid is False; write use_sigmoid=True in a dense or query "
        "head, or loss_cls=dict(_delete_=True, ...) without it in a box head."
    ),
}


class ClassificationLoss(nn.Module):
    """Base of all losses; a UserError if an argument is out of range.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the N rows; over the logits of a
            row the loss is always summed.
        loss_weight (float): Factor on the loss.
        use_sigmoid (bool, optional): As mmdet's configs have it: True for losses on C sigmoids,
            which dense and query heads read there, False for others.
        **unknown: What the base config left there for another loss; a TypeError.
    """

    custom_cls_channels = custom_activation = custom_accuracy = True
    use_sigmoid = False  #: Whether a dense or query head has C outputs and scores them by sigmoids.
    extra_logits = 0  #: K - C
    reads_quality = False  #: Whether ``row_losses`` takes the ``quality`` of the samples.
    reads_weight = False  #: Whether it takes the ``weight`` of the rows, too.
    box_heads_only = False  #: Whether the loss is defined for the proposals of a box head alone.
    activation = "sigmoid"  #: What ``PriorLinear`` has to start, if it is used.

    def __init__(
        self,
        num_classes: int | None = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        use_sigmoid: bool | None = None,
        **unknown,
    ) -> None:
        super().__init__()
        if "class_weight" in unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument 'class_weight', which DETR and "
                "Mask2Former need; use SoftmaxEqualizationLoss or ClassBalancedSoftmaxLoss there."
            )
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument {next(iter(unknown))!r}; if the "
                "base config left it there, write "
                f"loss_cls=dict(_delete_=True, type={type(self).__name__!r}, ...), in a dense or "
                "query head with use_sigmoid=True."
            )
        if use_sigmoid is not None and use_sigmoid != self.use_sigmoid:
            raise UserError(f"loss_cls: {type(self).__name__} {_USE_SIGMOID[use_sigmoid]}")
        if reduction not in ("none", "mean", "sum"):
            raise UserError(f"loss_cls.reduction is {reduction!r}; choose 'none', 'mean' or 'sum'.")
        self.num_classes = num_classes
        self.reduction = reduction
        self.loss_weight = loss_weight

    def get_cls_channels(self, num_classes: int) -> int:
        """Return K for the head's C; a UserError if the loss was configured for another C."""
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
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs,
    ) -> Tensor:
        """Compute the loss of logits (N, K): a scalar, or (N,) under ``"none"``.

        ``target`` is what :func:`split_target` takes. ``weight`` (N,) weighs the rows;
        ``avg_factor``, by default N, divides the sum under ``"mean"``; ``reduction_override``
        replaces ``reduction``; ``row_losses`` gets the rest. A UserError if the logits have
        another shape, or class statistics are missing.
        """
        self.check_logits(cls_score)
        labels, quality = split_target(target, self.num_classes)
        weight = self.weigh_rows(labels, weight)
        if self.reads_quality and quality is not None:
            kwargs["quality"] = quality
        if self.reads_weight:
            kwargs["weight"] = weight
        losses = self.row_losses(self.to_logits(cls_score), labels, **kwargs)
        return self.reduce(losses, weight, avg_factor, reduction_override)

    def weigh_rows(self, labels: Tensor, weight: Tensor | None) -> Tensor | None:
        """Return the weights of rows with these labels, shape (N,), given those of the head."""
        return weight

    def to_logits(self, cls_score: Tensor) -> Tensor:
        """Return what a head hands over as logits in at least float32."""
        return full_precision(cls_score)

    def reduce(self, losses: Tensor, weight=None, avg_factor=None, override=None) -> Tensor:
        """Weigh and reduce row losses of shape (N,), with the arguments of ``forward``."""
        reduction = override or self.reduction
        if len(losses) == 0 and reduction == "mean" and avg_factor is None:
            reduction = "sum"  # the mean over nothing is NaN
        if weight is not None and weight.shape != losses.shape:
            raise UserError(
                f"{type(self).__name__}: the weights have the shape {tuple(weight.shape)}; give "
                f"one per row, shape {tuple(losses.shape)}."
            )
        return self.loss_weight * weight_reduce_loss(losses, weight, reduction, avg_factor)

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
    """Base of the losses on C sigmoids without a background output.

    Args:
        activated (bool): Whether the head hands over probabilities, as TOOD's, not logits.
        **kwargs: Those of :class:`ClassificationLoss`.
    """

    use_sigmoid = True

    def __init__(self, num_classes=None, activated: bool = False, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self.activated = activated

    def to_logits(self, cls_score: Tensor) -> Tensor:
        """See the base class; log(p / (1 - p)) of probabilities."""
        scores = full_precision(cls_score)
        if self.activated:
            # A float below 1 is at least this far from it; towards 0 floats are finer.
            scores = scores.clamp(1e-12, 1 - torch.finfo(scores.dtype).eps).logit()
        return scores

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: sigmoids and a zero background column, shape (N, C + 1)."""
        self.check_logits(cls_score)
        return nn.functional.pad(cls_score.sigmoid(), (0, 1))

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc_classes``, see :func:`foreground_accuracy`."""
        return {"acc_classes": foreground_accuracy(cls_score, labels)}


class SoftmaxLoss(ClassificationLoss):
    """Base of the losses on a softmax.

    Args:
        has_background (bool): Whether the last logit is background; not in image classifiers.
        class_weight (sequence[float], optional): Factor on the loss of a row by its label, K
            numbers, as mmdet's DETR and Mask2Former set it.
        **kwargs: Those of :class:`ClassificationLoss`.
    """

    def __init__(
        self,
        num_classes=None,
        has_background: bool = True,
        class_weight: Sequence[float] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        self.has_background = has_background
        self.extra_logits = int(has_background)
        self.class_weight = None if class_weight is None else [float(w) for w in class_weight]

    def weigh_rows(self, labels: Tensor, weight: Tensor | None) -> Tensor | None:
        """Return the weights of the rows times those of their classes, shape (N,)."""
        if self.class_weight is None:
            return weight
        of_label = torch.tensor(self.class_weight, device=labels.device)[labels]
        return of_label if weight is None else of_label * weight

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: the softmax, shape (N, K)."""
        self.check_logits(cls_score)
        return cls_score.softmax(dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc``, over all rows and logits, and ``acc_classes``, over the foreground."""
        of_classes = foreground_accuracy(cls_score[:, : self.num_classes], labels)
        return {"acc": accuracy(cls_score, labels), "acc_classes": of_classes}


class ObjectnessLoss(SigmoidLoss):
    """Base of the losses on C + 1 sigmoids, the last of which tells background from objects; with
    ``extra_logits = 0`` it does without that one."""

    use_sigmoid = False
    extra_logits = 1
    test_with_objectness = True  #: Whether scores are multiplied by 1 - p(background).

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: sigmoids, of the categories multiplied by 1 - p(background), shape
        (N, C + 1)."""
        if not self.extra_logits:
            return super().get_activation(cls_score)
        self.check_logits(cls_score)
        categories, background = cls_score.sigmoid().tensor_split([self.num_classes], dim=1)
        if self.test_with_objectness:
            categories = categories * (1 - background)
        return torch.cat([categories, background], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc_objectness``, the percentage of rows whose last output tells background from
        objects correctly, and ``acc_classes``, see :func:`foreground_accuracy`."""
        if not self.extra_logits:
            return super().get_accuracy(cls_score, labels)
        background = cls_score[:, -1]
        objectness = torch.stack([-background, background], dim=1)
        return {
            "acc_objectness": accuracy(objectness, (labels == self.num_classes).long()),
            "acc_classes": foreground_accuracy(cls_score[:, :-1], labels),
        }


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


def split_target(target: Tensor | tuple, num_classes: int) -> tuple[Tensor, Tensor | None]:
    """Return labels (N,), and qualities (N,) or None, of what a head gives as the target.

    This is the labels, labels and qualities (GFL, TOOD, RTMDet), or one-hot rows times the quality,
    floats of shape (N, C) (YOLOX), in which a row of zeros counts as background.
    """
    if isinstance(target, tuple):
        return target
    if target.ndim == 1:
        return target, None
    quality, labels = target.max(dim=1)
    return labels.masked_fill(quality <= 0, num_classes), quality


def one_hot_targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Return y, with shape (N, K) and type of the logits: 1 at the label of a row. If there is no
    background output, K = C, background rows are zero."""
    targets = logits.new_zeros(len(logits), logits.shape[1] + 1)
    return targets.scatter_(1, labels[:, None], 1)[:, :-1]


def wanted_labels(loss: nn.Module, verified: Tensor | None) -> Tensor | None:
    """Return the image-level labels of a batch, boolean of shape (B, C), None if
    ``image_level_labels`` is off; a UserError if it is on and there are none."""
    if loss.image_level_labels and verified is None:
        raise UserError(
            f"{type(loss).__name__}: image_level_labels is on, but the head passes none on; set "
            "the type of the head to that with the prefix 'ImageLevel', as 'ImageLevelATSSHead'."
        )
    return verified if loss.image_level_labels else None


def foreground_accuracy(cls_score: Tensor, labels: Tensor) -> Tensor:
    """Return the percentage of foreground rows whose highest of C logits is their label, or 0."""
    foreground = (labels < cls_score.shape[1]).nonzero().squeeze(1)
    return accuracy(cls_score[foreground], labels[foreground])
