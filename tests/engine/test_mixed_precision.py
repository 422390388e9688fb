"""Training under autocast: bfloat16 everywhere, float16 where there is a GPU."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.engine import BFloat16OptimWrapper
from mmdet_eql.engine.launch import build_runner, enable_amp
from mmdet_eql.engine.mixed_precision import full_precision_boxes
from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import batch_of, build, make_config

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def bfloat16_context(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return BFloat16OptimWrapper(optimizer=optimizer).optim_context(model)


def losses_of(model, batch, context) -> dict:
    torch.manual_seed(0)
    with context:
        losses = model(**batch, mode="loss")
    return {
        key: sum(value) if isinstance(value, list) else value
        for key, value in losses.items()
        if "loss" in key
    }


@pytest.mark.parametrize(
    ("detector", "method"),
    [*(("mask-rcnn", method) for method in ("eql", "eqlv2", "seql", "seesaw")), ("htc", "eql")],
)
def test_losses_are_float32_and_close(minilvis, detector, method):
    model, dataset = build(make_config(detector, method, minilvis))
    batch = batch_of(model, dataset)
    # A copy, as Seesaw loss counts what it has seen.
    exact = losses_of(copy.deepcopy(model), batch, torch.enable_grad())
    losses = losses_of(model, batch, bfloat16_context(model))
    assert losses.keys() == exact.keys()
    for key, loss in losses.items():
        assert loss.dtype == torch.float32, key
        # Other proposals may be sampled, of which few are foreground.
        tolerance = 0.01 if "rpn" in key else 0.7 if "bbox" in key else 0.2
        assert loss.item() == pytest.approx(exact[key].item(), rel=tolerance, abs=2e-3), key
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name


def test_boxes_stay_float32(minilvis):
    model, dataset = build(make_config("mask-rcnn", "eql", minilvis))
    inputs = batch_of(model, dataset)["inputs"]
    extractor = model.roi_head.bbox_roi_extractor
    seen = []
    handle = extractor.roi_layers[0].register_forward_pre_hook(lambda _, args: seen.append(args))
    roi = torch.tensor([[0.0, 1.3, 2.7, 40.1, 50.9]])
    with bfloat16_context(model):
        features = model.extract_feat(inputs)
        scores, deltas = model.rpn_head(features)
        pooled = extractor(features[:4], roi)
        shared = model.roi_head.bbox_head.shared_fcs[0](pooled.flatten(1))
    assert {level.dtype for level in features} == {torch.bfloat16} == {shared.dtype}
    assert {level.dtype for level in (*scores, *deltas, pooled)} == {torch.float32}
    assert torch.equal(seen[0][1], roi)
    expected = extractor([level.float() for level in features[:4]], roi)
    assert torch.equal(pooled, expected)
    handle.remove()


def test_nothing_is_left_behind():
    model = MODELS.build(dict(type="RPNHead", num_classes=1, in_channels=8))
    with pytest.raises(KeyError), full_precision_boxes(model):
        assert model._forward_hooks
        raise KeyError
    assert not model._forward_hooks


def train(cfg, dtype=None):
    """Train a tiny run with ``--amp``, and return the runner and the loss of each iteration."""
    cfg.launcher = "none"
    enable_amp(cfg, dtype)
    runner = build_runner(cfg)
    runner.train()
    (scalars,) = Path(cfg.work_dir).glob("*/vis_data/scalars.json")
    entries = map(json.loads, scalars.read_text().splitlines())
    return runner, [entry["loss"] for entry in entries if "loss" in entry]


def check_run(runner, losses):
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    # Validation ran, in float32.
    assert runner.message_hub.get_scalar("val/lvis/bbox_AP").current() >= 0


def test_a_run_in_bfloat16(tiny_config):
    cfg = tiny_config("eql")
    cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale=512.0)
    runner, losses = train(cfg, "bfloat16")
    assert isinstance(runner.optim_wrapper, BFloat16OptimWrapper)
    check_run(runner, losses)


@needs_gpu
def test_a_run_in_float16(tiny_config):
    runner, losses = train(tiny_config("eql"), "float16")
    assert type(runner.optim_wrapper).__name__ == "AmpOptimWrapper"
    check_run(runner, losses)


def test_the_type_follows_the_device(monkeypatch):
    for gpu, wrapper in ((False, "BFloat16OptimWrapper"), (True, "AmpOptimWrapper")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        cfg = Config(dict(optim_wrapper=dict(type="OptimWrapper")))
        enable_amp(cfg)
        assert cfg.optim_wrapper.type == wrapper


@pytest.mark.parametrize(
    "wrapper", [dict(type="BFloat16OptimWrapper"), dict(type="AmpOptimWrapper", dtype="bfloat16")]
)
def test_the_type_of_the_config_stays(wrapper, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = Config(dict(optim_wrapper=wrapper))
    enable_amp(cfg)
    assert cfg.optim_wrapper == dict(type="BFloat16OptimWrapper")
    enable_amp(cfg, "float16")
    assert cfg.optim_wrapper.dtype == "float16"


def test_another_wrapper_is_refused():
    init_default_scope("mmdet")
    cfg = Config(dict(optim_wrapper=dict(type="ApexOptimWrapper")))
    with pytest.raises(UserError, match="is 'ApexOptimWrapper'"):
        enable_amp(cfg)
