"""Softmax Equalization Loss (SEQL).

In a softmax every sample of another category pushes a rare one down. SEQL drops the rare categories
from the denominator, at random, so that a share of these gradients remains:

    L = - sum_j y_j log p~_j,   p~_j = exp(z_j) / sum_k w~_k exp(z_k),
    w~_k = 1 - beta_k T(f_k) (1 - y_k),   beta_k ~ Bernoulli(gamma)

(arXiv 2003.05176, section on image classification), with beta drawn anew for each sample and
category. For N, C, K, labels, f_j and n_j see :mod:`mmdet_eql.losses.base`.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SoftmaxLoss, check_number
from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.losses.tail_weighting import TailAware, threshold_tail
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class SoftmaxEqualizationLoss(TailAware, CountAware, SoftmaxLoss):
    """Softmax Equalization Loss for the box heads of mmdet and for image classifiers.

    The tail is chosen by exactly one of ``lambda_``, ``lambda_count`` and ``tail_weighting``. The
    first and the last need the frequencies (of an image classifier counts / counts.sum()), the
    second the counts. The background output is never in the tail. beta is drawn from torch's
    generator of the device of the logits, in training and in evaluation; ranks draw for their own
    samples.

    Args:
        lambda_ (float, optional): Frequency below which a category belongs to the tail, in
            [0, 1]. 0 makes softmax cross-entropy, which needs no frequencies.
        lambda_count (int, optional): Number of training samples below which a category belongs to
            the tail.
        tail_weighting (dict, optional): Another T(f), built from the registry ``TASK_UTILS``: see
            :mod:`mmdet_eql.losses.tail_weighting`.
        gamma (float): Probability that a tail category is ignored by a sample of another one.
        exclude_background (bool): Whether samples of background keep pushing tail categories down,
            as E(r) has it in EQL. The equation above has no such term.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SoftmaxLoss`.

    Example:
        >>> loss = SoftmaxEqualizationLoss(
        ...     num_classes=3, lambda_=0.1, gamma=1.0, has_background=False
        ... )
        >>> loss.set_class_frequency(torch.tensor([0.6, 0.39, 0.01]))
        >>> value = loss(torch.zeros(1, 3), torch.tensor([0]))  # the third is left out
        >>> torch.isclose(value, torch.tensor(2.0).log())
        tensor(True)
    """

    statistics = ("class_frequency", "class_counts")

    def __init__(
        self,
        num_classes: int | None = None,
        lambda_: float | None = None,
        lambda_count: int | None = None,
        tail_weighting: dict | None = None,
        gamma: float = 0.9,
        exclude_background: bool = False,
        **kwargs,
    ) -> None:
        if sum(choice is not None for choice in (lambda_, lambda_count, tail_weighting)) != 1:
            raise UserError(
                "loss_cls: SoftmaxEqualizationLoss needs exactly one of lambda_ (a frequency), "
                "lambda_count (a number of samples) and tail_weighting; set the others to None."
            )
        if lambda_count is not None:
            check_number("lambda_count", lambda_count)
        check_number("gamma", gamma, high=1)
        of_frequency = lambda_ if lambda_count is None else 0
        super().__init__(num_classes, of_frequency, tail_weighting, **kwargs)
        self.lambda_ = lambda_
        self.lambda_count = lambda_count
        self.gamma = gamma
        self.exclude_background = exclude_background

    def tail_weights(self) -> Tensor:
        """Return T of each category, float64 of shape (C,), in [0, 1]; a UserError as that of
        :class:`~mmdet_eql.losses.equalization.EqualizationLoss`."""
        if self.lambda_count is not None:
            return threshold_tail(self.known_class_counts(), self.lambda_count)
        return super().tail_weights()

    def draw_beta(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return whether sample r ignores category k if it is in the tail, boolean (N, K)."""
        # rand() is below 1, so that gamma = 1 ignores always and gamma = 0 never.
        beta = torch.rand(logits.shape, device=logits.device) < self.gamma
        if self.exclude_background and self.has_background:
            beta &= (labels < self.num_classes)[:, None]
        return beta

    def row_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See the base class; needs frequencies or counts."""
        tail = F.pad(self.tail_weights(), (0, self.extra_logits)).to(logits.dtype)
        weights = 1 - self.draw_beta(logits, labels) * tail
        weights = weights.scatter(1, labels[:, None], 1)  # so that no denominator is empty
        # A weight of 0 masks the logit, and log 0 never appears: its gradient would be NaN.
        ignored = weights == 0
        logits = logits + weights.masked_fill(ignored, 1).log()
        return F.cross_entropy(logits.masked_fill(ignored, -torch.inf), labels, reduction="none")
