"""Softmax Equalization Loss (SEQL).

In a softmax every sample of another category pushes a rare one down. SEQL drops the rare categories
from the denominator, at random, so that a share of these gradients remains:

    L = - sum_j y_j log p~_j,   p~_j = exp(z_j) / sum_k w~_k exp(z_k),
    w~_k = 1 - beta_k T(f_k) (1 - y_k),   beta_k ~ Bernoulli(gamma)

(arXiv 2003.05176, section on image classification), with beta drawn anew for each sample and
category. A weight of 0 takes the logit out of the denominator; the label's own weight is always 1,
so that a denominator is never empty.

Glossary:
    N: number of proposals (RoIs) of a batch, or of images for a plain classifier.
    C: number of foreground categories.
    K: number of logits, C + 1 with a background output and C without.
    f_j: frequency, the share of the training images that contain category j, shape (C,).
    n_j: number of training samples (instances) of category j, shape (C,).
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.class_statistics import CountAware, FrequencyAware
from mmdet_eql.losses.classifier import full_precision
from mmdet_eql.losses.equalization import check_lambda
from mmdet_eql.losses.reduction import check_reduction
from mmdet_eql.losses.softmax_classifier import SoftmaxClassifierLoss
from mmdet_eql.losses.tail_weighting import (
    CheckedTail,
    ThresholdTail,
    build_tail_weighting,
    threshold_tail,
)
from mmdet_eql.utils.errors import UserError


def softmax_equalization_loss(
    cls_score: Tensor, labels: Tensor, tail: Tensor, beta: Tensor
) -> Tensor:
    """The loss of each sample.

    Args:
        cls_score (Tensor): Logits of shape (N, K), float.
        labels (Tensor): Labels of shape (N,), in [0, K).
        tail (Tensor): T(f_k) of each logit, shape (K,).
        beta (Tensor): Whether category k is ignored for sample r, boolean of shape (N, K).

    Returns:
        Tensor: Loss of shape (N,), float32, or float64 for float64 logits.
    """
    logits = full_precision(cls_score)
    weights = 1 - beta.to(logits.dtype) * tail.to(logits.dtype)
    weights = weights.scatter(1, labels.unsqueeze(1), 1)
    # log 0 never appears: a weight of 0 masks the logit, others add their logarithm.
    ignored = weights == 0
    logits = logits + weights.masked_fill(ignored, 1).log()
    return F.cross_entropy(logits.masked_fill(ignored, -torch.inf), labels, reduction="none")


@MODELS.register_module()
class SoftmaxEqualizationLoss(FrequencyAware, CountAware, SoftmaxClassifierLoss):
    """Softmax Equalization Loss for the box heads of mmdet and for plain classifiers.

    The tail is chosen by exactly one of ``lambda_``, ``lambda_count`` and ``tail_weighting``. The
    first and the last need the frequencies, the second the counts; a plain classifier's training
    loop hands them over by ``set_class_frequency(counts / counts.sum())`` or
    ``set_class_counts(counts)``. The background output is never in the tail.

    beta comes from torch's generator of the device of the logits: ``torch.manual_seed`` makes it
    reproducible, and ranks with seeds of their own draw independently, as their samples differ.
    It is drawn in training and evaluation mode alike.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        lambda_ (float, optional): Frequency below which a category belongs to the tail, in
            [0, 1]. 0 makes softmax cross-entropy, which needs no frequencies.
        lambda_count (int, optional): Number of training samples below which a category belongs to
            the tail.
        tail_weighting (dict, optional): Another T(f), built from the registry ``TASK_UTILS``: see
            :mod:`mmdet_eql.losses.tail_weighting`.
        gamma (float): Probability that a tail category is ignored by a sample of another one.
        has_background (bool): Whether the last of C + 1 outputs is background, as box heads need
            it. A plain classifier has C outputs.
        exclude_background (bool): Whether samples of background keep pushing tail categories down,
            as E(r) has it in EQL. The equation above has no such term.
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"`` over the samples.
        loss_weight (float): Factor on the loss.

    Raises:
        UserError: If an argument is out of range, or not exactly one chooses the tail.

    Example:
        >>> loss = SoftmaxEqualizationLoss(
        ...     num_classes=3, lambda_=0.1, gamma=1.0, has_background=False
        ... )
        >>> loss.set_class_frequency(torch.tensor([0.6, 0.39, 0.01]))
        >>> value = loss(torch.zeros(1, 3), torch.tensor([0]))  # the third is left out
        >>> torch.isclose(value, torch.tensor(2.0).log())
        tensor(True)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        lambda_: float | None = None,
        lambda_count: int | None = None,
        tail_weighting: dict | None = None,
        gamma: float = 0.9,
        has_background: bool = True,
        exclude_background: bool = False,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, has_background=has_background)
        if sum(choice is not None for choice in (lambda_, lambda_count, tail_weighting)) != 1:
            raise UserError(
                "loss_cls: SoftmaxEqualizationLoss needs exactly one of lambda_ (a frequency), "
                "lambda_count (a number of samples) and tail_weighting; set the others to None."
            )
        if lambda_ is not None:
            check_lambda(lambda_)
            tail_weighting = ThresholdTail(lambda_)
        if lambda_count is not None and not lambda_count >= 0:
            raise UserError(
                f"loss_cls.lambda_count is {lambda_count}; it is a number of training samples and "
                "must be at least 0."
            )
        if not 0 <= gamma <= 1:
            raise UserError(
                f"loss_cls.gamma is {gamma}; it is a probability and must lie between 0 and 1."
            )
        self.lambda_ = lambda_
        self.lambda_count = lambda_count
        self.tail_weighting = (
            build_tail_weighting(tail_weighting) if tail_weighting is not None else None
        )
        if self.tail_weighting is not None:
            self.checked_tail = CheckedTail(self.tail_weighting)
        self.gamma = gamma
        self.exclude_background = exclude_background
        self.reduction = check_reduction(reduction)
        self.loss_weight = loss_weight

    def tail_weights(self) -> Tensor:
        """T of each category.

        Returns:
            Tensor: Shape (C,), float64, in [0, 1].

        Raises:
            UserError: If the loss needs frequencies or counts and has none, or ``tail_weighting``
                returns something else than a weight in [0, 1] per category.
        """
        if self.lambda_count is not None:
            return threshold_tail(self.known_class_counts(), self.lambda_count)
        if self.lambda_ == 0:
            return torch.zeros_like(self.class_frequency)
        return self.checked_tail(self.known_class_frequency())

    def draw_beta(self, cls_score: Tensor, labels: Tensor) -> Tensor:
        """Draw which categories each sample ignores if they are in the tail.

        Args:
            cls_score (Tensor): Logits of shape (N, K).
            labels (Tensor): Labels of shape (N,).

        Returns:
            Tensor: Boolean of shape (N, K), on the device of the logits.
        """
        # rand() is below 1, so that gamma = 1 ignores always and gamma = 0 never.
        beta = torch.rand(cls_score.shape, device=cls_score.device) < self.gamma
        if self.exclude_background and self.has_background:
            beta &= (labels < self.num_classes)[:, None]
        return beta

    def row_losses(self, cls_score: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs frequencies or counts."""
        tail = self.tail_weights()
        if self.has_background:
            tail = F.pad(tail, (0, 1))
        beta = self.draw_beta(cls_score, labels)
        return softmax_equalization_loss(cls_score, labels, tail, beta)
