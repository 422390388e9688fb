"""Box heads whose post-processing does not sort through proposals times categories.

scores (N, C + 1), boxes (N, 4 or C * 4) of mmdet's head -> multiclass_nms -> detections
"""

from mmdet.models.roi_heads.bbox_heads import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_eql.heads.image_level_labels import ImageLevelLabelHeadMixin
from mmdet_eql.heads.multiclass_nms import multiclass_nms


class PrefixNMSHeadMixin:
    """Makes a box head of mmdet use :func:`~mmdet_eql.heads.multiclass_nms.multiclass_nms`.

    Inherited before a head that has ``_predict_by_feat_single`` of mmdet's ``BBoxHead``. The head
    keeps its parameters and detections, in every RoI head; ``test_cfg.rcnn`` stays what it is.
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
    """mmdet's ``Shared2FCBBoxHead``, with NMS over the highest scores and image-level labels.

    Checkpoints of either head load into the other.
    """


@MODELS.register_module()
class PrefixNMSShared4Conv1FCBBoxHead(
    PrefixNMSHeadMixin, ImageLevelLabelHeadMixin, Shared4Conv1FCBBoxHead
):
    """mmdet's ``Shared4Conv1FCBBoxHead``, with NMS over the highest scores and image-level
    labels."""
