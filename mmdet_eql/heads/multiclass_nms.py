"""NMS over a thousand categories, which looks at the highest scores first.

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

from collections.abc import Iterable

import torch
from mmcv.ops import nms
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from mmdet.utils import ConfigType
from torch import Tensor

from mmdet_eql.utils.errors import UserError

#: Candidates that are looked at first, for each detection that is wanted, and by how much their
#: number grows.
_FIRST, _GROWTH = 4, 4
#: Share of all pairs below which their candidates are few.
_FEW = 0.25
#: Boxes of several categories that are suppressed by one call.
_BLOCK = 256

_KNOWN_KEYS = {"type", "iou_threshold", "offset", "class_agnostic", "split_thr", "max_num"}


def multiclass_nms(
    multi_bboxes: Tensor,
    multi_scores: Tensor,
    score_thr: float,
    nms_cfg: ConfigType,
    max_num: int = -1,
    box_dim: int = 4,
    category_thr: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
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
        category_thr (Tensor, optional): A score of each category, shape (C,): detections above it
            are returned besides the ``max_num`` best.

    Returns:
        tuple[Tensor, Tensor]: Boxes with scores of shape (K, 5) and labels, int64 of shape (K,);
        highest scores first.

    Raises:
        UserError: If ``category_thr`` comes with another NMS than the plain one of each category.

    Example:
        >>> boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
        >>> scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.0, 0.0]])
        >>> dets, labels = multiclass_nms(boxes, scores, 0.05, dict(iou_threshold=0.5), max_num=3)
        >>> labels.tolist()
        [0, 0, 1]
    """
    is_plain = box_dim == 4 and _is_plain_nms(nms_cfg)
    if category_thr is not None and (not is_plain or nms_cfg.get("class_agnostic")):
        raise UserError(
            f"test_cfg.rcnn.nms is {nms_cfg}; the best detections of each category are found by "
            "type='nms' without class_agnostic alone. Use it, or leave 'fixed_ap' and 'pooled_ap' "
            "out of the evaluator and evaluate the result file by tools/evaluate.py."
        )
    if max_num <= 0 or not is_plain:
        return stock_multiclass_nms(
            multi_bboxes, multi_scores, score_thr, nms_cfg, max_num, box_dim=box_dim
        )

    scores = multi_scores[:, :-1]
    num_classes = scores.size(1)
    boxes = multi_bboxes.reshape(len(scores), multi_bboxes.size(1) // 4, 4)
    valid = scores > score_thr
    number = int(valid.count_nonzero())

    options = {key: value for key, value in nms_cfg.items() if key != "type"}
    one_by_one = number >= options.pop("split_thr", 10000)
    limit = options.pop("max_num", -1)
    wanted = min(max_num, limit) if limit > 0 else max_num

    def boxes_of(inds: Tensor) -> tuple[Tensor, Tensor]:
        proposals, labels = inds // num_classes, inds % num_classes
        return boxes[proposals, labels if boxes.size(1) > 1 else 0], labels

    few = number < _FEW * valid.numel()
    if few:
        # As with a trained detector: all pairs that are no candidates are left behind at once.
        candidates, candidate_labels = boxes_of(valid.flatten().nonzero().squeeze(1))
        scores = scores[valid]
    else:
        scores = scores.masked_fill(~valid, -torch.inf).flatten()
    moves = not options.pop("class_agnostic", False) and number
    if moves:
        # mmcv moves the boxes of each category to a place of their own, which rounds their corners.
        # The place is that of all candidates.
        corners = candidates if few else boxes.amax(dim=2).masked_fill(~valid, -torch.inf)
        distance = corners.max() + 1

    def look_up(at: Tensor) -> tuple[Tensor, Tensor]:
        return (candidates[at], candidate_labels[at]) if few else boxes_of(at)

    def suppress(at: Tensor) -> Tensor:
        chosen, labels = look_up(at)
        moved = chosen + (labels.to(boxes) * distance)[:, None] if moves else chosen
        # A pixel lies between categories, less what corners are rounded by.
        rounding = torch.finfo(moved.dtype).eps
        apart = (
            bool(moves)
            and one_by_one
            and not options.get("offset")
            and bool(chosen.min() >= 0 and rounding * moved.max() < 0.25)
        )
        return at[_suppress(moved, labels, one_by_one, apart, options)]

    size = _FIRST * wanted
    while True:
        at = _highest(scores, min(size, number))
        kept = suppress(at)
        if len(kept) >= wanted or size >= number:
            break
        size *= _GROWTH
    if category_thr is None:
        kept = kept[:wanted]
    else:
        # Of each category, all candidates down to some score: NMS begins as over all of them.
        limits = category_thr[candidate_labels] if few else category_thr.repeat(len(boxes))
        above = scores > limits
        chosen = above.index_fill(0, at, True)
        masked = scores.masked_fill(~chosen, -torch.inf)
        kept = suppress(_highest(masked, int(chosen.count_nonzero())))
        kept = torch.cat([kept[:wanted], kept[wanted:][above[kept[wanted:]]]])

    chosen, labels = look_up(kept)
    return torch.cat([chosen, scores[kept, None]], dim=1), labels


def _is_plain_nms(nms_cfg: ConfigType | None) -> bool:
    return (
        nms_cfg is not None
        and nms_cfg.get("type", "nms") == "nms"
        and nms_cfg.get("iou_threshold", -1) >= 0
        and _KNOWN_KEYS.issuperset(nms_cfg)
    )


def _highest(scores: Tensor, size: int) -> Tensor:
    """The positions of the highest of scores (S,), equal ones in ascending order."""
    if size == 0:
        return scores.new_empty(0, dtype=torch.int64)
    if size == len(scores):
        return scores.sort(descending=True, stable=True).indices
    lowest = scores.kthvalue(len(scores) - size + 1).values
    inds = (scores >= lowest).nonzero().squeeze(1)
    return inds[scores[inds].sort(descending=True, stable=True).indices[:size]]


def _suppress(
    boxes: Tensor, labels: Tensor, one_by_one: bool, apart: bool, options: dict
) -> Tensor:
    """Suppress as ``mmcv.ops.batched_nms`` would do with all candidates.

    Boxes (K, 4) come highest score first, moved to the place of their category. Those of different
    categories may touch where coordinates are negative, unless they are known to be ``apart`` or
    are taken ``one_by_one``. Returns the positions of those that are kept, ascending.
    """
    # nms() sorts once more: these scores stay in order, whatever it does with equal ones.
    scores = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    if not one_by_one:
        return nms(boxes, scores, **options)[1]
    kept = torch.ones_like(labels, dtype=torch.bool)
    by_label = labels.sort(stable=True)
    sizes = by_label.values.unique_consecutive(return_counts=True)[1].tolist()
    for group in by_label.indices.split(_joined(sizes) if apart else sizes):
        if len(group) > 1:
            kept[group] = False
            kept[group[nms(boxes[group], scores[group], **options)[1]]] = True
    return kept.nonzero().squeeze(1)


def _joined(sizes: Iterable[int]) -> list[int]:
    """Sizes of blocks of whole groups, one after the other."""
    blocks = [0]
    for size in sizes:
        if blocks[-1] and blocks[-1] + size > _BLOCK:
            blocks.append(0)
        blocks[-1] += size
    return blocks
