"""RoIAlign as matrix products beside mmcv's: the same features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import RoIAlign
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmdet_eql.heads import SeparableRoIAlign
from mmdet_eql.utils.errors import UserError


@st.composite
def scenes(draw):
    """Feature maps and RoIs, partly outside them, without area, or larger than they are."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    batch = draw(st.integers(1, 2))
    stride = draw(st.sampled_from([1, 3, 4, 32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    maps = torch.randn(batch, draw(st.integers(1, 3)), height, width, generator=generator)
    rois = []
    for _ in range(draw(st.integers(0, 4))):
        x, y = (draw(st.floats(-2, 1.5)) * stride * size for size in (width, height))
        w, h = (draw(st.floats(0, 2)) * stride * size for size in (width, height))
        if draw(st.booleans()):
            x, y, w, h = map(round, (x, y, w, h))
        rois.append([draw(st.integers(0, batch - 1)), x, y, x + w, y + h])
    options = dict(
        output_size=draw(st.sampled_from([1, 2, 7, (3, 5)])),
        spatial_scale=1 / stride,
        sampling_ratio=draw(st.sampled_from([0, 0, 2])),
        aligned=draw(st.booleans()),
    )
    return maps, torch.tensor(rois, dtype=torch.float32).reshape(-1, 5), options


def assert_same_features(maps, rois, options) -> None:
    expected = RoIAlign(**options)(maps, rois)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            features = SeparableRoIAlign(**options)(maps.contiguous(memory_format=layout), rois)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


@given(scenes())
@settings(max_examples=100, deadline=None)
def test_features_are_those_of_mmcv(scene):
    assert_same_features(*scene)


def test_gradients_are_those_of_mmcv():
    maps = torch.randn(1, 2, 9, 8, requires_grad=True)
    rois = torch.tensor([[0.0, 3, 4, 20, 30]])
    gradients = [
        torch.autograd.grad(layer(7, 0.25)(maps, rois).square().sum(), maps)[0]
        for layer in (RoIAlign, SeparableRoIAlign)
    ]
    assert torch.equal(*gradients)


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [dict(pool_mode="max"), dict(dtype=torch.float64)], ids=["max", "double"]
)
def test_what_is_left_to_mmcv(change):
    dtype = change.pop("dtype", torch.float32)
    maps, rois = torch.randn(1, 2, 9, 8, dtype=dtype), torch.tensor([[0.0, 3, 4, 20, 30]])
    layers = [layer(7, 0.25, **change) for layer in (RoIAlign, SeparableRoIAlign)]
    assert torch.equal(*(layer(maps, rois.to(dtype)) for layer in layers))


def make_extractor(kind: str, layer: str = "RoIAlign"):
    init_default_scope("mmdet")
    return MODELS.build(
        dict(
            type=kind,
            roi_layer=dict(type=layer, output_size=7, sampling_ratio=0),
            out_channels=3,
            featmap_strides=[4, 8, 16],
        )
    )


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1, 30])
def test_an_extractor_of_several_levels(number):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 160 // s, 240 // s, generator=generator) for s in (4, 8, 16)]
    corners = torch.rand(number, 2, generator=generator) * torch.tensor([200, 120])
    sides = torch.exp2(1 + 8 * torch.rand(number, 2, generator=generator))
    image = torch.arange(number).remainder(2)[:, None]
    rois = torch.cat([image, corners, corners + sides], dim=1)
    expected = make_extractor("SingleRoIExtractor")(maps, rois)
    features = make_extractor("SeparableRoIExtractor")(maps, rois)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_other_layers_are_refused():
    with pytest.raises(UserError, match=r"roi_layer\.type is 'RoIPool'"):
        make_extractor("SeparableRoIExtractor", "RoIPool")
