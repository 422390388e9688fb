"""Configs that name parts which cannot be built are told by their key."""

import errno

import pytest

from mmdet_eql.engine.build_errors import build_errors, key_of
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.utils.errors import UserError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"model.roi_head.bbox_head.fc_out_channels": "many"},
            ["model.roi_head.bbox_head (type 'Shared2FCBBoxHead')", "TypeError"],
        ),
        (
            {"model.roi_head.bbox_head.loss_cls.lambada": 1},
            ["model.roi_head.bbox_head.loss_cls (type 'EqualizationLoss')", "lambada"],
        ),
        ({"custom_hooks.1.every": 3}, ["custom_hooks.1 (type 'ResumeSamplerHook')", "arguments"]),
        ({"train_dataloader": None}, ["its runner cannot be built", "train_dataloader"]),
        (
            {"train_dataloader.dataset.pipeline.3.prob": "often"},
            ["train_dataloader.dataset.pipeline.3 (type 'RandomFlip')"],
        ),
        ({"param_scheduler.0.begin": "late"}, ["param_scheduler.0 (type 'LinearLR')"]),
        ({"train_cfg.max_iters": 2.5}, ["train_cfg (type 'IterBasedTrainLoop')", "integer"]),
    ],
)
def test_the_key_is_named(tiny_config, options, words):
    cfg = tiny_config("eql")
    cfg.launcher = "none"
    cfg.merge_from_dict(options)
    with pytest.raises(UserError) as caught, build_errors(cfg):
        build_runner(cfg).train()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_key_of_nested_parts():
    cfg = dict(
        model=dict(type="A", heads=[dict(type="B"), dict(type="C", loss=dict(type="D"))]),
        hooks=[dict(type="D")],
    )
    assert key_of(cfg, ["A", "C", "D"]) == "model.heads.1.loss"
    assert key_of(cfg, ["D"]) == "model.heads.1.loss"
    assert key_of(cfg, ["X", "B"]) == "model.heads.0"
    assert key_of(cfg, ["X"]) == ""
    assert key_of(cfg, []) == ""


def test_other_errors_stay_as_they_are(tiny_config, monkeypatch):
    cfg = tiny_config("eql")
    with pytest.raises(ZeroDivisionError), build_errors(cfg):
        raise ZeroDivisionError
    with pytest.raises(UserError, match="a sentence"), build_errors(cfg):
        raise UserError("a sentence")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    cfg.launcher = "none"
    monkeypatch.setattr("mmengine.runner.Runner.dump_config", full)
    with pytest.raises(OSError, match="No space left"), build_errors(cfg):
        build_runner(cfg)
