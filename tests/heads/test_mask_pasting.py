"""RLEs of pasted masks: those of mmdet's pasting and pycocotools' encoding."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import encode_mask_results

from mmdet_eql.heads import paste_as_rle


def paste_as_mmdet(masks, boxes, image_size, threshold) -> list[dict]:
    """What FCNMaskHead does on the CPU, and a metric with its result."""
    bitmaps = torch.zeros(len(masks), *image_size, dtype=torch.bool)
    for index in range(len(masks)):
        values, region = _do_paste_mask(
            masks[index, None, None], boxes[index, None], *image_size, skip_empty=True
        )
        bitmaps[(index, *region)] = (values >= threshold)[0]
    return encode_mask_results(bitmaps.numpy())


def smooth_masks(generator, number, side) -> torch.Tensor:
    coarse = torch.rand(number, 1, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)[:, 0]


@st.composite
def scenes(draw):
    """An image, and boxes in it, partly outside it, thinner than a pixel or larger than it."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))

    def interval(size):
        # A box may end at the image, but mmdet cannot paste one that lies beyond.
        low = draw(st.floats(-size, size, width=32))
        high = draw(
            st.one_of(st.floats(max(low, 0), 2 * size, width=32), st.just(np.float32(max(low, 0))))
        )
        return (low, float(high))

    boxes = []
    for _ in range(draw(st.integers(0, 5))):
        (x1, x2), (y1, y2) = interval(width), interval(height)
        boxes.append((x1, y1, x2, y2))
    side = draw(st.sampled_from([1, 2, 7, 28]))
    kind = draw(st.sampled_from(["smooth", "noise", "inside", "outside", "at 0.5", "near 0.5"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    masks = {
        "smooth": lambda: smooth_masks(generator, max(len(boxes), 1), side)[: len(boxes)],
        "noise": lambda: torch.rand(len(boxes), side, side, generator=generator),
        "inside": lambda: torch.ones(len(boxes), side, side),
        "outside": lambda: torch.zeros(len(boxes), side, side),
        "at 0.5": lambda: torch.full((len(boxes), side, side), 0.5),
        "near 0.5": lambda: 0.5 + 1e-7 * torch.randn(len(boxes), side, side, generator=generator),
    }[kind]()
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return masks, boxes, (height, width), draw(st.sampled_from([0.5, 0.3, 0.9, 0.0]))


@given(scenes())
@settings(max_examples=100, deadline=None)
def test_runs_are_those_of_pasting_and_encoding(scene):
    assert paste_as_rle(*scene) == paste_as_mmdet(*scene)


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_boxes_of_photographs(share):
    """As many boundary pixels as a test run meets, some of them near the threshold."""
    generator = torch.Generator().manual_seed(0)
    height, width = 240, 320
    corners = torch.rand(150, 2, generator=generator) * torch.tensor([width, height])
    sides = 4 + torch.rand(150, 2, generator=generator) * torch.tensor([width, height]) / share
    limit = torch.tensor([width, height, width, height])
    boxes = torch.minimum(torch.cat([corners, corners + sides], dim=1), limit)
    masks = smooth_masks(generator, 150, 28)
    scene = (masks, boxes, (height, width), 0.5)
    assert paste_as_rle(*scene) == paste_as_mmdet(*scene)


def test_a_mask_that_fills_the_image_is_one_run():
    masks, box = torch.ones(1, 4, 4), torch.tensor([[-9.0, -9.0, 30.0, 30.0]])
    (rle,) = paste_as_rle(masks, box, (20, 10), 0.5)
    assert mask_utils.decode(rle).all()
    assert rle == mask_utils.encode(np.ones((20, 10), np.uint8, order="F"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("coordinate", range(4))
def test_boxes_of_a_diverged_model_are_no_reason_to_stop(number, coordinate):
    boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0], [2.0, 2.0, 6.0, 6.0]])
    boxes[0, coordinate] = number
    diverged, sound = paste_as_rle(torch.ones(2, 4, 4), boxes, (8, 9), 0.5)
    assert mask_utils.decode(diverged).shape == (8, 9)
    assert mask_utils.area(sound) == 16


def test_probabilities_that_are_no_numbers():
    masks = smooth_masks(torch.Generator().manual_seed(0), 3, 7)
    masks[1, 3, 3] = float("nan")
    boxes = torch.tensor([[1.0, 2.0, 30.5, 20.0]]).repeat(3, 1)
    scene = (masks, boxes, (32, 40), 0.5)
    assert paste_as_rle(*scene) == paste_as_mmdet(*scene)
