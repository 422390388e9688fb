"""Calibration of a trained classifier: its logits, scaled and shifted by category.

NorCal, temperature scaling and tau-normalisation all are affine in each logit,

    z'_j = s_j z_j + t_j,

so that they can be written into the weights and the bias of the classifier. What comes out is an
ordinary checkpoint: tests, demo and test-time augmentation need to know nothing of it, and where a
cascade averages the logits of its stages, each stage has its own s and t. Logit adjustment keeps
each proposal's probability of background and is not affine; its scores are those of
:class:`~mmdet_eql.losses.LogitAdjustedSoftmaxLoss`.

Glossary:
    R: number of proposals.
    C, K: number of categories, and of logits. The first C logits are those of the categories.
    z: logits, shape (R, K).
    N_j: number of training images that contain category j, shape (C,).
    s, t: scale and shift of each logit, shape (K,).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmdet.models.layers import NormedLinear
from torch import Tensor, nn

from mmdet_eql.losses import LogitAdjustedSoftmaxLoss, SigmoidLoss, SoftmaxLoss
from mmdet_eql.utils.errors import UserError


def norcal(head: nn.Module, image_count: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return s and t of NorCal (Pan et al., arXiv 2107.02170): exp(z_j) is divided by N_j^gamma.

    On a softmax the scores of the categories and of background are normalised together, background
    undivided: t_j = -gamma log N_j. N_j counts images, as in the authors' code, and 0 as 1. Where
    the scores of a proposal do not compete with background (sigmoids), a factor that all
    categories share changes no order; the most frequent category keeps its scores there, so that
    none falls below the score threshold.
    """
    shift = -gamma * image_count.clamp(min=1).log()
    if not is_softmax(head):
        shift = shift - shift.min()
    scale = torch.ones(head.fc_cls.out_features, dtype=shift.dtype, device=shift.device)
    return scale, F.pad(shift, (0, len(scale) - len(shift)))


def temperature(head: nn.Module, image_count: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Return s and t of temperature scaling (Guo et al., arXiv 1706.04599, section 4.2):
    z / T. A UserError if T is not above 0."""
    if not value > 0:
        raise UserError(f"the temperature is {value}; it must be above 0.")
    scale = image_count.new_full((head.fc_cls.out_features,), 1 / value)
    return scale, torch.zeros_like(scale)


def tau_normalization(head: nn.Module, image_count: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return s and t of tau-normalisation (Kang et al., arXiv 1910.09217, section 4.2).

    The paper divides the weights w_j of a category by |w_j|^tau and drops the bias, in image
    classification without background. Here the categories compete with background or with 0: their
    bias, and what is no category, stays, and weights are divided by (|w_j| / m)^tau, m the
    geometric mean of the norms, so that categories keep their size on average. A category without
    weights stays as it is.
    """
    bias = head.fc_cls.bias.detach().to(image_count)
    norm = head.fc_cls.weight.detach()[: len(image_count)].to(image_count).norm(dim=1)
    log_norm = norm[norm > 0].log()
    scale = torch.ones_like(bias)
    scale[: len(norm)][norm > 0] = (tau * (log_norm.mean() - log_norm)).exp()
    return scale, bias - scale * bias


AffineMap = Callable[[nn.Module, Tensor, float], tuple[Tensor, Tensor]]
#: The methods that change the classifier alone, by name.
AFFINE: dict[str, AffineMap] = {
    "norcal": norcal,
    "temperature": temperature,
    "tau-norm": tau_normalization,
}
LOGIT_ADJUSTMENT = "logit-adjustment"
#: What is tried by default.
GRID = {
    "norcal": (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5),
    LOGIT_ADJUSTMENT: (0.25, 0.5, 0.75, 1.0),
    "temperature": (0.5, 0.75, 1.5, 2.0),
    "tau-norm": (0.25, 0.5, 0.75, 1.0),
}


@dataclass(frozen=True)
class Calibration:
    """A method with its parameter: gamma of ``"norcal"``, tau of ``"logit-adjustment"`` and
    ``"tau-norm"``, T of ``"temperature"``; or ``"none"``."""

    method: str = "none"
    value: float = 0.0

    def __str__(self) -> str:
        return self.method if self.method == "none" else f"{self.method} {self.value:g}"


def is_softmax(head: nn.Module) -> bool:
    """Return whether a box head scores categories and background by a plain softmax."""
    loss = head.loss_cls
    if isinstance(loss, SoftmaxLoss):
        return type(loss).get_activation is SoftmaxLoss.get_activation
    return not head.custom_activation


def methods_of(heads: Sequence[nn.Module]) -> list[str]:
    """Return which methods can change the ranking of the detections of some box heads.

    These are the stages of a detector. Logit adjustment is for a softmax: on sigmoids it ranks as
    NorCal. A temperature changes no order of sigmoids. A normalised classifier has no norms, and a
    scale of its weights has no effect.

    Raises:
        UserError: If a classifier is neither linear nor normalised, or has no bias, or if it sets
            the boxes of the next stage.
    """
    if not all(head.reg_class_agnostic for head in heads[:-1]):
        raise UserError(
            "bbox_head.reg_class_agnostic is False in a cascade: the boxes of a stage depend on "
            "the classifier of the one before, which calibration changes; it is for detectors that "
            "are trained with True."
        )
    methods = list(GRID)
    for head in heads:
        classifier = getattr(head, "fc_cls", None)
        forward = getattr(type(classifier), "forward", None)
        known = forward in (nn.Linear.forward, NormedLinear.forward)
        if not known or classifier.bias is None:
            raise UserError(
                f"bbox_head: the classifier of {type(head).__name__} is a "
                f"{type(classifier).__name__}; calibration changes linear and normalised layers "
                "with a bias, 'fc_cls' of the box head."
            )
        refused = set()
        if not is_softmax(head):
            refused.add(LOGIT_ADJUSTMENT)
        if isinstance(head.loss_cls, SigmoidLoss) and head.loss_cls.extra_logits == 0:
            refused.add("temperature")
        if forward is NormedLinear.forward:
            refused |= {"temperature", "tau-norm"}
        methods = [name for name in methods if name not in refused]
    return methods


def calibrated_scores(
    calibration: Calibration,
    heads: Sequence[nn.Module],
    logits: Sequence[Tensor],
    image_count: Tensor,
) -> Tensor:
    """Return the scores of proposals, float32 of shape (R, C + 1), as the last box head gives them.

    Args:
        calibration (Calibration): What to apply.
        heads (Sequence[nn.Module]): The box head of each stage, in evaluation mode.
        logits (Sequence[Tensor]): z of each stage, shape (R, K).
        image_count (Tensor): N_j, float64 of shape (C,).
    """
    if calibration.method in AFFINE:
        affine = AFFINE[calibration.method]
        stages = [affine(head, image_count, calibration.value) for head in heads]
        logits = [
            z * scale.to(z) + shift.to(z) for z, (scale, shift) in zip(logits, stages, strict=True)
        ]
    mean = sum(logits) / len(logits)
    if calibration.method == LOGIT_ADJUSTMENT:
        loss = LogitAdjustedSoftmaxLoss(len(image_count), tau=calibration.value).eval()
        # Only the ratios of frequencies count.
        loss.set_class_frequency(image_count / image_count.max().clamp(min=1))
        return loss.to(mean.device).get_activation(mean)
    if heads[-1].custom_activation:
        return heads[-1].loss_cls.get_activation(mean)
    return mean.softmax(dim=1)


@torch.no_grad()
def calibrate_classifier(calibration: Calibration, head: nn.Module, image_count: Tensor) -> None:
    """Write a calibration into the classifier of a box head: weights s_j w_j, bias s_j b_j + t_j.

    A UserError for logit adjustment, which is no change of weights.
    """
    if calibration.method not in AFFINE:
        raise UserError(
            f"calibration: {calibration.method} cannot be written into a classifier; choose one of "
            f"{', '.join(AFFINE)}."
        )
    scale, shift = AFFINE[calibration.method](head, image_count, calibration.value)
    weight, bias = head.fc_cls.weight, head.fc_cls.bias
    weight.copy_(weight * scale[:, None].to(weight))
    bias.copy_(bias * scale.to(bias) + shift.to(bias))
