"""The last layer of a classifier on sigmoids, which starts at a small probability."""

import math

from mmdet.registry import MODELS
from torch import nn

from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class PriorLinear(nn.Linear):
    """A linear layer whose sigmoids start at ``prior_prob``, for ``bbox_head.cls_predictor_cfg``.

    With C sigmoids at p = 0.5 the first steps push every logit down by gradients that grow with C;
    a small probability avoids them.

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
