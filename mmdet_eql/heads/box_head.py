"""Box heads with NMS for a thousand categories, and their classifier with a prior."""

import math

from mmdet.models.roi_heads.bbox_heads import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.heads.image_level_labels import ImageLevelLabelHeadMixin
from mmdet_eql.heads.multiclass_nms import multiclass_nms
from mmdet_eql.utils.errors import UserError


class PrefixNMSHeadMixin:
    """Makes a box head of mmdet, inherited after it, use :func:`multiclass_nms`.

    The head keeps its parameters (checkpoints of either head load into the other) and detections,
    in every RoI head; ``test_cfg.rcnn`` stays what it is.
    """

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """As ``BBoxHead._predict_by_feat_single``."""
        if rcnn_test_cfg is None or len(roi) == 0:
            return super()._predict_by_feat_single(
                roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg
            )
        # Without a test_cfg, it returns the boxes and scores before NMS.
        raw = super()._predict_by_feat_single(roi, cls_score, bbox_pred, img_meta, rescale)
        dets, labels = multiclass_nms(
            raw.bboxes,
            raw.scores,
            rcnn_test_cfg.score_thr,
            rcnn_test_cfg.nms,
            rcnn_test_cfg.max_per_img,
            box_dim=4 if bbox_pred is None else self.bbox_coder.encode_size,
        )
        return InstanceData(bboxes=dets[:, :-1], scores=dets[:, -1], labels=labels)


@MODELS.register_module()
class PrefixNMSConvFCBBoxHead(PrefixNMSHeadMixin, ImageLevelLabelHeadMixin, ConvFCBBoxHead):
    """mmdet's ``ConvFCBBoxHead``, with NMS over the highest scores and image-level labels."""


@MODELS.register_module()
class PrefixNMSShared2FCBBoxHead(PrefixNMSHeadMixin, ImageLevelLabelHeadMixin, Shared2FCBBoxHead):
    """mmdet's ``Shared2FCBBoxHead``, with NMS over the highest scores and image-level labels."""


@MODELS.register_module()
class PrefixNMSShared4Conv1FCBBoxHead(
    PrefixNMSHeadMixin, ImageLevelLabelHeadMixin, Shared4Conv1FCBBoxHead
):
    """mmdet's ``Shared4Conv1FCBBoxHead``, with NMS over the highest scores and image-level
    labels."""


@MODELS.register_module()
class PriorLinear(nn.Linear):
    """A linear layer whose scores start at ``prior_prob``, for ``bbox_head.cls_predictor_cfg``.

    With C sigmoids at p = 0.5 the first steps push every logit down by gradients that grow with C;
    a small probability avoids them.

    Args:
        in_features, out_features (int): As in ``nn.Linear``.
        bias (bool): True, since the bias keeps the prior; a UserError otherwise.
        prior_prob (float): Initial probability of each category, in (0, 1), a UserError otherwise.
            The official code of EQL starts at 0.001.
        activation (str): ``"sigmoid"``, or ``"gumbel"`` for
            :class:`~mmdet_eql.losses.GumbelOptimizedLoss`; a UserError otherwise.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        prior_prob: float = 0.001,
        activation: str = "sigmoid",
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
        if activation not in ("sigmoid", "gumbel"):
            raise UserError(
                f"cls_predictor_cfg.activation is {activation!r}; choose 'sigmoid' or 'gumbel'."
            )
        self.prior_prob = prior_prob
        self.activation = activation
        super().__init__(in_features, out_features, bias=True)

    def init_weights(self) -> None:
        """Set the bias to the logit of p: -log((1 - p) / p), or -log(-log p) for Gumbel's
        exp(-exp(-z)); called by the box head after its own."""
        odds = (1 - self.prior_prob) / self.prior_prob
        of_activation = {"sigmoid": odds, "gumbel": -math.log(self.prior_prob)}
        nn.init.constant_(self.bias, -math.log(of_activation[self.activation]))
