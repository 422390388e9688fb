"""Classification losses for long-tailed detection."""

from mmdet_eql.losses.equalization import EqualizationLoss, equalization_loss
from mmdet_eql.losses.sigmoid_classifier import PriorLinear, SigmoidClassifierLoss
from mmdet_eql.losses.tail_weighting import threshold_tail

__all__ = [
    "EqualizationLoss",
    "PriorLinear",
    "SigmoidClassifierLoss",
    "equalization_loss",
    "threshold_tail",
]
