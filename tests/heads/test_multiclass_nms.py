"""NMS over the highest scores beside mmdet's over all: equal to the bit, in any case."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_eql.heads import multiclass_nms
from mmdet_eql.utils.errors import UserError


def clusters(generator, number: int, spread: float) -> torch.Tensor:
    """Boxes of shape (number, 4) around three places, as a detector's proposals lie."""
    places = 40 * torch.rand(3, 2, generator=generator)
    centres = places[torch.randint(3, (number,), generator=generator)]
    centres = centres + spread * torch.randn(number, 2, generator=generator)
    sides = 1 + 12 * torch.rand(number, 2, generator=generator)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


@st.composite
def cases(draw):
    """Arguments of multiclass_nms."""
    number = draw(st.integers(0, 40))
    num_classes = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    scores = torch.rand(number, num_classes + 1, generator=generator)
    # Equal scores, down to a single value.
    steps = draw(st.sampled_from([None, 1, 3, 10]))
    scores = scores if steps is None else (steps * scores).ceil() / steps
    # mmdet cannot take no boxes of several categories.
    of_each = number > 0 and draw(st.booleans())
    boxes = clusters(generator, number * (num_classes if of_each else 1), draw(st.floats(0, 9)))
    if draw(st.booleans()):
        boxes = boxes.round()  # equal boxes, and some without area
    if draw(st.booleans()):
        boxes = boxes.clamp(min=0)  # without this, boxes of different categories touch
    nms_cfg = dict(type="nms", iou_threshold=draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0])))
    for key, values in {
        "split_thr": [0, 1, 20],
        "class_agnostic": [False, True],
        "offset": [0, 1],
        "max_num": [-1, 2, 1000],
    }.items():
        if draw(st.booleans()):
            nms_cfg[key] = draw(st.sampled_from(values))
    return dict(
        multi_bboxes=boxes.reshape(number, -1 if number else 4),
        multi_scores=scores,
        score_thr=draw(st.sampled_from([-1.0, 0.0, 0.1, 0.5, 0.99, 1.0])),
        nms_cfg=nms_cfg,
        max_num=draw(st.sampled_from([-1, 1, 2, 5, 300])),
    )


def nms_of_mmdet(case: dict) -> tuple:
    """mmdet's, with equal scores in the order of their numbers.

    Its own order of equal scores is any, so it is given different ones in that order.
    """
    scores, threshold = case["multi_scores"][:, :-1], case["score_thr"]
    order = scores.flatten().sort(descending=True, stable=True).indices
    ranks = torch.empty(len(order)).scatter_(0, order, torch.arange(len(order), 0, -1.0))
    valid = case["multi_scores"][:, :-1] > threshold
    ranks = ranks.view_as(scores).where(valid, torch.tensor(-1.0))
    ranks = torch.nn.functional.pad(ranks, (0, 1))
    dets, labels, inds = stock_multiclass_nms(
        **{**case, "multi_scores": ranks, "score_thr": 0.0}, return_inds=True
    )
    return torch.cat([dets[:, :4], scores.reshape(-1, 1)[inds]], dim=1), labels


def assert_equal(results: tuple, expected: tuple) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert torch.equal(result, wanted)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_boxes_scores_and_labels_are_those_of_mmdet(case):
    if case["max_num"] > 0:
        assert_equal(multiclass_nms(**case), nms_of_mmdet(case))
    valid = case["multi_scores"][:, :-1] > case["score_thr"]
    if len(case["multi_scores"][:, :-1][valid].unique()) == valid.sum():
        assert_equal(multiclass_nms(**case), stock_multiclass_nms(**case))


def random_case(number: int, num_classes: int, boxes: torch.Tensor, **nms_cfg) -> dict:
    scores = torch.randn(number, num_classes + 1, generator=torch.Generator().manual_seed(1))
    return dict(
        multi_bboxes=boxes,
        multi_scores=(scores - 3).sigmoid(),
        score_thr=1e-4,
        nms_cfg={"type": "nms", "iou_threshold": 0.5, **nms_cfg},
        max_num=100,
    )


@pytest.mark.parametrize("of_each", [False, True], ids=["class-agnostic", "class-specific"])
@pytest.mark.parametrize("split_thr", [10_000, 10**6], ids=["one by one", "all at once"])
def test_corners_are_rounded_as_far_out_as_in_mmdet(of_each, split_thr):
    """The last categories' boxes are moved by a million pixels, where numbers are 1/16 apart."""
    number, num_classes = 15, 1230
    generator = torch.Generator().manual_seed(0)
    boxes = clusters(generator, number * (num_classes if of_each else 1), 2) + 900
    case = random_case(number, num_classes, boxes.view(number, -1), split_thr=split_thr)
    case["multi_scores"][:, :1000] *= 1e-3
    results = multiclass_nms(**case)
    assert len(results[0]) == 100
    assert (results[1] >= 1000).all()
    assert_equal(results, nms_of_mmdet(case))


@pytest.mark.parametrize("num_objects", [1, 8])
def test_it_looks_at_all_candidates_where_few_boxes_are_kept(num_objects):
    """All proposals are on few objects, so that 100 detections are not to be had, or late."""
    generator = torch.Generator().manual_seed(0)
    boxes = 50.0 * torch.arange(num_objects).repeat(200)[:200, None] + torch.tensor([0, 0, 40, 40])
    boxes = boxes + torch.rand(200, 4, generator=generator)
    case = random_case(200, 14, boxes)
    results = multiclass_nms(**case)
    assert len(results[0]) == min(100, 14 * num_objects)
    assert_equal(results, nms_of_mmdet(case))


@pytest.mark.parametrize("shape", [(0, 4), (0, 12), (5, 4), (5, 12)])
def test_without_candidates(shape):
    scores = torch.full((shape[0], 4), 0.01)
    dets, labels = multiclass_nms(torch.ones(shape), scores, 0.05, dict(iou_threshold=0.5), 10)
    assert dets.shape == (0, 5)
    assert labels.shape == (0,)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    "nms_cfg",
    [
        None,
        dict(type="soft_nms", iou_threshold=0.5, min_score=0.05),
        dict(type="nms", iou_threshold=0.5, score_threshold=0.3),
        dict(type="nms", iou_threshold=-0.1),
    ],
)
def test_other_kinds_are_left_to_mmdet(nms_cfg):
    boxes = clusters(torch.Generator().manual_seed(0), 30, 2)
    case = {**random_case(30, 5, boxes), "nms_cfg": nms_cfg}
    assert_equal(multiclass_nms(**case), stock_multiclass_nms(**case))


class LargestTensor(TorchDispatchMode):
    """Notes the largest number of bytes that an operation allocates for a result."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        views = {storage_of(item) for item in args if isinstance(item, torch.Tensor)}
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, torch.Tensor) and storage_of(item) not in views:
                self.size = max(self.size, item.untyped_storage().nbytes())
        return result


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_nothing_is_as_large_as_the_boxes_of_all_candidates():
    number, num_classes = 200, 2000
    case = random_case(number, num_classes, clusters(torch.Generator().manual_seed(0), number, 9))
    with LargestTensor() as largest:
        multiclass_nms(**case)
    # A score for each candidate; mmdet has 16 bytes for its box and 8 for its label.
    assert largest.size <= 4 * number * num_classes


@pytest.mark.parametrize("seed", range(12))
def test_what_is_above_the_threshold_of_its_category_is_kept_besides_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    num_classes, of_each = 30, seed % 2 == 1
    boxes = clusters(generator, 40 * (num_classes if of_each else 1), 4).clamp(min=0)
    case = random_case(40, num_classes, boxes.view(40, -1), split_thr=[10, 10_000][seed // 2 % 2])
    case["multi_scores"] = (20 * case["multi_scores"]).ceil() / 20
    case["max_num"] = 5
    category_thr = torch.rand(num_classes, generator=generator) / 2
    category_thr[:3] = 1e-7
    dets, labels = nms_of_mmdet({**case, "max_num": -1})
    kept = dets[:, 4] > category_thr[labels]
    kept[:5] = True
    assert 20 < kept.sum() < len(kept)
    results = multiclass_nms(**case, category_thr=category_thr)
    assert_equal(results, (dets[kept], labels[kept]))


@pytest.mark.parametrize("nms_cfg", [dict(type="soft_nms"), dict(class_agnostic=True)])
def test_thresholds_of_categories_need_plain_nms(nms_cfg):
    case = random_case(4, 3, torch.rand(4, 4), **nms_cfg)
    with pytest.raises(UserError, match="type='nms' without class_agnostic"):
        multiclass_nms(**case, category_thr=torch.zeros(3))
