"""NMS of each category that looks at the highest scores first.

With 1,000 proposals and 1,230 categories nearly every pair of them is a candidate, and mmdet sorts
and suppresses a million boxes to keep 300. But whether a candidate is kept depends on candidates of
higher scores alone. NMS over the K highest scores therefore keeps the beginning of what NMS over
all of them keeps; if that is less than what is wanted, K grows.

Glossary:
    N: number of proposals of an image.
    C: number of categories.
    candidate: a proposal with a category, if its score exceeds the threshold. It is number
        (proposal * C + category).
"""

from collections.abc import Iterator

import torch
from mmcv.ops import nms
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from mmdet.utils import ConfigType
from torch import Tensor

#: Candidates that are looked at first, for each detection that is wanted, and by how much their
#: number grows.
_FIRST, _GROWTH = 4, 4
#: So many go to NMS at once; beyond, its pairs would outnumber those within the categories.
_MOST_AT_ONCE = 10_000
#: Candidates whose scores are looked through at a time.
_BLOCK = 100_000

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

    On the CPU they are the same to the bit, as long as no two candidates have the same score. Those
    that have it are taken in the order of their numbers; mmdet leaves that to PyTorch's sorting,
    which promises no order.

    mmdet's function is called for what this one is of no use for: all detections (``max_num`` not
    positive), Soft-NMS and other kinds that change scores, ``nms_cfg=None``, and boxes that are not
    four numbers.

    Args:
        multi_bboxes (Tensor): Boxes x1, y1, x2, y2 of each proposal, shape (N, 4), or of each
            proposal and category, shape (N, C * 4).
        multi_scores (Tensor): Shape (N, C + 1); the last column, the background's, is not read.
        score_thr (float): A candidate's score is above it.
        nms_cfg (dict): ``iou_threshold``, and optionally ``type``, ``offset``,
            ``class_agnostic``, ``split_thr`` and ``max_num``, as ``mmcv.ops.batched_nms`` takes
            them.
        max_num (int): How many detections are wanted.
        score_factors (Tensor, optional): Finite, shape (N,). Multiplied to the scores that exceed
            the threshold.
        return_inds (bool): Whether to return the candidates' numbers as well.
        box_dim (int): 4.

    Returns:
        tuple[Tensor, ...]: Boxes with scores of shape (K, 5), labels, int64 of shape (K,), and, if
        asked for, the numbers of the candidates, int64 of shape (K,); highest scores first.

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
    suppression = _Suppression(nms_cfg, boxes, valid, number)
    wanted = min(max_num, suppression.max_num)

    size = _FIRST * wanted
    while True:
        inds = _highest(scores, valid, number, size)
        proposals, labels = inds // num_classes, inds % num_classes
        of_candidates = boxes[proposals, labels if boxes.size(1) > 1 else 0]
        their_scores = scores[proposals, labels]
        kept = suppression(of_candidates, labels)[:wanted]
        if len(kept) == wanted or size >= number:
            break
        size *= _GROWTH

    dets = torch.cat([of_candidates[kept], their_scores[kept, None]], dim=1)
    return (dets, labels[kept], inds[kept]) if return_inds else (dets, labels[kept])


def _is_plain_nms(nms_cfg: ConfigType | None) -> bool:
    return (
        nms_cfg is not None
        and nms_cfg.get("type", "nms") == "nms"
        and nms_cfg.get("iou_threshold", -1) >= 0
        and _KNOWN_KEYS.issuperset(nms_cfg)
    )


def _highest(scores: Tensor, valid: Tensor, number: int, size: int) -> Tensor:
    """The candidates of highest scores, in the order of NMS.

    Args:
        scores (Tensor): Shape (N, C).
        valid (Tensor): Which are candidates, bool of shape (N, C).
        number (int): How many are.
        size (int): How many are wanted.

    Returns:
        Tensor: Numbers of the candidates, int64 of shape (min(size, number),).
    """
    if size < number:
        highest = torch.cat(
            [
                block.masked_fill(~in_block, -torch.inf).flatten().topk(min(size, block.numel()))[0]
                for block, in_block in _blocks(scores, valid)
            ]
        )
        lowest = highest.topk(size).values[-1]
        # All that are equal to the lowest one, of which the first in order are then taken.
        valid = valid & (scores >= lowest)
    inds = valid.flatten().nonzero().squeeze(1)
    num_classes = scores.size(1)
    order = scores[inds // num_classes, inds % num_classes].sort(descending=True, stable=True)
    return inds[order.indices[:size]]


class _Suppression:
    """NMS as ``mmcv.ops.batched_nms`` would do it with all candidates, for some of them.

    mmcv moves the boxes of each category to a place of their own, which rounds their corners: a
    category's number times the largest coordinate is a large number. If there are few candidates,
    boxes of different categories can touch even so; if there are many, the categories are taken one
    by one and cannot. Here the place, the rounding and this decision are those of all candidates.
    """

    def __init__(self, nms_cfg: ConfigType, boxes: Tensor, valid: Tensor, number: int) -> None:
        self._options = dict(nms_cfg)
        self._options.pop("type", None)
        self._one_by_one = number >= self._options.pop("split_thr", 10000)
        #: Most detections that ``nms_cfg`` lets through.
        self.max_num = self._options.pop("max_num", -1)
        if self.max_num <= 0:
            self.max_num = max(number, 1)
        self._distance = None
        if not self._options.pop("class_agnostic", False) and number:
            self._distance = _largest_coordinate(boxes, valid) + 1

    def __call__(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Suppress.

        Args:
            boxes (Tensor): Highest score first, shape (K, 4).
            labels (Tensor): Shape (K,).

        Returns:
            Tensor: Positions of those that are kept, ascending, int64.
        """
        if self._distance is not None:
            boxes = boxes + (labels.to(boxes) * self._distance)[:, None]
        if not self._one_by_one or (
            len(boxes) <= _MOST_AT_ONCE
            and _are_apart(boxes, labels, self._options.get("offset", 0))
        ):
            return self._nms(boxes)
        kept = torch.ones_like(labels, dtype=torch.bool)
        by_label = labels.sort(stable=True)
        sizes = by_label.values.unique_consecutive(return_counts=True)[1].tolist()
        for group in by_label.indices.split(sizes):
            if len(group) > 1:
                kept[group] = False
                kept[group[self._nms(boxes[group])]] = True
        return kept.nonzero().squeeze(1)

    def _nms(self, boxes: Tensor) -> Tensor:
        # It sorts once more: these scores stay in order, whatever it does with equal ones.
        descending = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
        return nms(boxes, descending, **self._options)[1]


def _are_apart(boxes: Tensor, labels: Tensor, offset: int) -> bool:
    """Whether boxes of different categories cannot overlap, since one lies to the right of the
    other.

    Args:
        boxes (Tensor): Shape (K, 4), those of greater labels further to the right.
        labels (Tensor): Shape (K,).
        offset (int): x2 - x1 + offset is a box's width.
    """
    labels, group = labels.unique(return_inverse=True)
    left = boxes.new_empty(len(labels))
    left = left.scatter_reduce(0, group, boxes[:, 0], "amin", include_self=False)
    right = boxes.new_empty(len(labels))
    right = right.scatter_reduce(0, group, boxes[:, 2], "amax", include_self=False)
    return bool((left[1:] >= right.cummax(dim=0).values[:-1] + offset).all())


def _largest_coordinate(boxes: Tensor, valid: Tensor) -> Tensor:
    """Of the boxes of all candidates.

    Args:
        boxes (Tensor): Shape (N, 1 or C, 4).
        valid (Tensor): Shape (N, C).
    """
    if boxes.size(1) == 1:
        return boxes[valid.any(dim=1)].max()
    largest = [
        block.amax(dim=2).masked_fill_(~in_block, -torch.inf).max()
        for block, in_block in _blocks(boxes, valid)
    ]
    return torch.stack(largest).max()


def _blocks(values: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some proposals after others, so that what is computed on the way stays small."""
    proposals = max(_BLOCK // valid.size(1), 1)
    return zip(values.split(proposals), valid.split(proposals), strict=True)
