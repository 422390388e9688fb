"""Classification losses for long-tailed detection.

base                  what a head asks of a loss; sigmoids, softmax, reduction
head_contract         which head works with which loss
class_statistics      frequencies, counts, sums of gradients, mean scores, in buffers of a loss
equalization          EQL
tail_weighting        T(f), the tail of EQL
softmax_equalization  SEQL, EQL on a softmax, by frequency
gradient_softmax_equalization  softmax EQL by gradients, of the later paper
equalization_v2       EQL v2
focal_rows            losses of rows on sigmoids with their gradient, in blocks
equalized_focal       EFL and EQFL
rivals                what they are compared with
"""

from mmdet_eql.losses.base import (
    ClassificationLoss,
    SigmoidLoss,
    SoftmaxLoss,
    one_hot_targets,
    split_target,
)
from mmdet_eql.losses.class_statistics import (
    CountAware,
    FrequencyAware,
    GradientSums,
    RunningStatistics,
)
from mmdet_eql.losses.equalization import EqualizationLoss
from mmdet_eql.losses.equalization_v2 import EqualizationLossV2
from mmdet_eql.losses.equalized_focal import EqualizedFocalLoss, EqualizedQualityFocalLoss
from mmdet_eql.losses.gradient_softmax_equalization import GradientSoftmaxEqualizationLoss
from mmdet_eql.losses.head_contract import connect_losses
from mmdet_eql.losses.rivals.adaptive_class_suppression import AdaptiveClassSuppressionLoss
from mmdet_eql.losses.rivals.balanced_group_softmax import BalancedGroupSoftmaxLoss
from mmdet_eql.losses.rivals.class_balanced import (
    ClassBalancedSigmoidLoss,
    ClassBalancedSoftmaxLoss,
    class_balanced_weights,
)
from mmdet_eql.losses.rivals.drop import DropLoss
from mmdet_eql.losses.rivals.effective_class_margin import EffectiveClassMarginLoss
from mmdet_eql.losses.rivals.equilibrium import EquilibriumLoss
from mmdet_eql.losses.rivals.federated import FederatedLoss
from mmdet_eql.losses.rivals.focal import SigmoidFocalLoss
from mmdet_eql.losses.rivals.gumbel import GumbelOptimizedLoss
from mmdet_eql.losses.rivals.logit_adjustment import LogitAdjustedSoftmaxLoss
from mmdet_eql.losses.softmax_equalization import SoftmaxEqualizationLoss
from mmdet_eql.losses.tail_weighting import (
    ExponentialDecayTail,
    GompertzDecayTail,
    ThresholdTail,
    lambda_for_tail_ratio,
    threshold_tail,
)
