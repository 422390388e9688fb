"""Classification losses for long-tailed detection."""

from mmdet_eql.losses.equalization import EqualizationLoss, equalization_loss
from mmdet_eql.losses.equalization_v2 import EqualizationLossV2
from mmdet_eql.losses.rivals.balanced_group_softmax import BalancedGroupSoftmaxLoss
from mmdet_eql.losses.rivals.class_balanced import (
    ClassBalancedSigmoidLoss,
    ClassBalancedSoftmaxLoss,
    class_balanced_weights,
)
from mmdet_eql.losses.rivals.federated import FederatedLoss, federated_loss
from mmdet_eql.losses.rivals.focal import SigmoidFocalLoss, sigmoid_focal_loss
from mmdet_eql.losses.rivals.logit_adjustment import LogitAdjustedSoftmaxLoss
from mmdet_eql.losses.sigmoid_classifier import PriorLinear, SigmoidClassifierLoss
from mmdet_eql.losses.softmax_classifier import SoftmaxClassifierLoss
from mmdet_eql.losses.softmax_equalization import (
    SoftmaxEqualizationLoss,
    softmax_equalization_loss,
)
from mmdet_eql.losses.tail_weighting import (
    ExponentialDecayTail,
    GompertzDecayTail,
    ThresholdTail,
    lambda_for_tail_ratio,
    threshold_tail,
)

__all__ = [
    "BalancedGroupSoftmaxLoss",
    "ClassBalancedSigmoidLoss",
    "ClassBalancedSoftmaxLoss",
    "EqualizationLoss",
    "EqualizationLossV2",
    "ExponentialDecayTail",
    "FederatedLoss",
    "GompertzDecayTail",
    "LogitAdjustedSoftmaxLoss",
    "PriorLinear",
    "SigmoidClassifierLoss",
    "SigmoidFocalLoss",
    "SoftmaxClassifierLoss",
    "SoftmaxEqualizationLoss",
    "ThresholdTail",
    "class_balanced_weights",
    "equalization_loss",
    "federated_loss",
    "lambda_for_tail_ratio",
    "sigmoid_focal_loss",
    "softmax_equalization_loss",
    "threshold_tail",
]
