"""Box heads with an NMS that looks at the highest scores first, and their classifier.

With 1,000 proposals and 1,230 categories nearly every pair of them is a candidate, and mmdet sorts
and suppresses a million boxes to keep 300. But whether a candidate is kept depends on candidates of
higher scores alone. NMS over the K highest scores therefore keeps the beginning of what NMS over
all of them keeps; if that is less than what is wanted, K grows.

Glossary:
    N: number of proposals of an image.
    C: number of categories.
    candidate: a proposal with a category, if its score exceeds the threshold. Its number is
        (proposal * C + category).
"""

import math

import torch
from mmcv.ops import nms
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from mmdet.models.roi_heads.bbox_heads import (
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.heads.image_level_labels import ImageLevelLabelHeadMixin
from mmdet_eql.utils.errors import UserError

#: Candidates that are looked at first, for each detection that is wanted, and by how much their
#: number grows.
_FIRST, _GROWTH = 4, 4

_KNOWN_KEYS = {"type", "iou_threshold", "offset", "class_agnostic", "split_thr", "max_num"}


def multiclass_nms(
    multi_bboxes: Tensor,
    multi_scores: Tensor,
    score_thr: float,
    nms_cfg: ConfigType,
    max_num: int = -1,
    score_factors: Tensor | None = None,
    return_inds: bool = False,
    box_dim: int = 4,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """As mmdet's ``multiclass_nms``: the same boxes, scores and labels in the same order.

    On the CPU they are the same to the bit, as long as no two candidates have the same score. Equal
    scores are taken in the order of their numbers; mmdet leaves that to PyTorch's sorting, which
    promises no order.

    mmdet's function is called for all detections (``max_num`` not positive), Soft-NMS and other
    kinds that change scores, ``nms_cfg=None``, and boxes that are not four numbers.

    Args:
        multi_bboxes (Tensor): Boxes x1, y1, x2, y2 of each proposal, shape (N, 4), or of each
            proposal and category, shape (N, C * 4).
        multi_scores (Tensor): Shape (N, C + 1); the last column, the background's, is not read.
        score_thr (float): A candidate's score is above it.
        nms_cfg (dict): As ``mmcv.ops.batched_nms`` takes it.
        max_num (int): How many detections are wanted.
        score_factors (Tensor, optional): Finite factors on the scores above the threshold, (N,).
        return_inds (bool): Whether to return the candidates' numbers as well.

    Returns:
        tuple[Tensor, ...]: Boxes with scores of shape (K, 5), labels, int64 of shape (K,), and with
        ``return_inds`` the numbers of the candidates, int64 of shape (K,); highest scores first.

    Example:
        >>> boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
        >>> scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.0, 0.0]])
        >>> dets, labels = multiclass_nms(boxes, scores, 0.05, dict(iou_threshold=0.5), max_num=3)
        >>> labels.tolist()
        [0, 0, 1]
    """
    if max_num <= 0 or box_dim != 4 or not _is_plain_nms(nms_cfg):
        return stock_multiclass_nms(
            multi_bboxes, multi_scores, score_thr, nms_cfg, max_num, score_factors, return_inds,
            box_dim,
        )  # fmt: skip

    scores = multi_scores[:, :-1]
    num_classes = scores.size(1)
    boxes = multi_bboxes.reshape(len(scores), multi_bboxes.size(1) // 4, 4)
    valid = scores > score_thr
    if score_factors is not None:
        scores = scores * score_factors.view(-1, 1)
    number = int(valid.count_nonzero())

    options = {key: value for key, value in nms_cfg.items() if key != "type"}
    one_by_one = number >= options.pop("split_thr", 10000)
    limit = options.pop("max_num", -1)
    wanted = min(max_num, limit) if limit > 0 else max_num
    distance = torch.zeros_like(scores[:1, :1].sum())
    if not options.pop("class_agnostic", False) and number:
        # mmcv moves the boxes of each category to a place of their own, which rounds their corners.
        # The place is that of all candidates.
        distance = boxes.amax(dim=2).masked_fill(~valid, -torch.inf).max() + 1

    scores = scores.masked_fill(~valid, -torch.inf)
    size = _FIRST * wanted
    while True:
        inds = _highest(scores.flatten(), min(size, number))
        proposals, labels = inds // num_classes, inds % num_classes
        candidates = boxes[proposals, labels if boxes.size(1) > 1 else 0]
        moved = candidates + (labels.to(boxes) * distance)[:, None]
        kept = _suppress(moved, labels, one_by_one, options)[:wanted]
        if len(kept) == wanted or size >= number:
            break
        size *= _GROWTH

    kept_scores = scores[proposals[kept], labels[kept], None]
    dets = torch.cat([candidates[kept], kept_scores], dim=1)
    return (dets, labels[kept], inds[kept]) if return_inds else (dets, labels[kept])


def _is_plain_nms(nms_cfg: ConfigType | None) -> bool:
    return (
        nms_cfg is not None
        and nms_cfg.get("type", "nms") == "nms"
        and nms_cfg.get("iou_threshold", -1) >= 0
        and _KNOWN_KEYS.issuperset(nms_cfg)
    )


def _highest(scores: Tensor, size: int) -> Tensor:
    """The positions of the highest of scores (N * C,), equal ones in ascending order."""
    if size == 0:
        return scores.new_empty(0, dtype=torch.int64)
    lowest = scores.kthvalue(len(scores) - size + 1).values
    inds = (scores >= lowest).nonzero().squeeze(1)
    return inds[scores[inds].sort(descending=True, stable=True).indices[:size]]


def _suppress(boxes: Tensor, labels: Tensor, one_by_one: bool, options: dict) -> Tensor:
    """Suppress as ``mmcv.ops.batched_nms`` would do with all candidates.

    Boxes (K, 4) come highest score first, moved to the place of their category. Where coordinates
    are negative, those of different categories may touch, unless they are taken ``one_by_one``.
    Returns the positions of those that are kept, ascending.
    """
    # nms() sorts once more: these scores stay in order, whatever it does with equal ones.
    scores = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    if not one_by_one:
        return nms(boxes, scores, **options)[1]
    kept = torch.ones_like(labels, dtype=torch.bool)
    by_label = labels.sort(stable=True)
    sizes = by_label.values.unique_consecutive(return_counts=True)[1].tolist()
    for group in by_label.indices.split(sizes):
        if len(group) > 1:
            kept[group] = False
            kept[group[nms(boxes[group], scores[group], **options)[1]]] = True
    return kept.nonzero().squeeze(1)


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
    """A linear layer whose sigmoids start at ``prior_prob``, for ``bbox_head.cls_predictor_cfg``.

    With C sigmoids at p = 0.5 the first steps push every logit down by gradients that grow with C;
    a small probability avoids them.

    Args:
        in_features, out_features (int): As in ``nn.Linear``.
        bias (bool): True, since the bias keeps the prior; a UserError otherwise.
        prior_prob (float): Initial probability of each category, in (0, 1), a UserError otherwise.
            The official code of EQL starts at 0.001.
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
