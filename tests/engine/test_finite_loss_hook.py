"""A loss that is not finite stops the run before the step, with all that is needed to find out."""

import os

import pytest
import torch
from mmengine.hooks import Hook

from mmdet_eql.engine.launch import build_runner
from mmdet_eql.utils.errors import UserError


class Spoiler(Hook):
    """Changes the model before an iteration."""

    def __init__(self, spoil, iteration):
        self.spoil = spoil
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            self.spoil(runner.model)


def spoil_loss(model):
    model.roi_head.bbox_head.loss_cls.loss_weight = float("nan")


def spoil_parameter(model):
    model.rpn_head.rpn_cls.bias.data[0] = float("inf")


def train(cfg, spoil, iteration, hooks=None):
    cfg.launcher = "none"
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if hooks is not None:
        cfg.custom_hooks = hooks
    runner = build_runner(cfg)
    runner.register_hook(Spoiler(spoil, iteration))
    with pytest.raises(UserError) as caught:
        runner.train()
    return runner, str(caught.value)


def test_the_iteration_images_and_parameter_are_named(tiny_config):
    cfg = tiny_config("eql", max_iters=4)
    runner, sentence = train(cfg, spoil_loss, 4)
    assert sentence.startswith("iteration 4: loss_cls is nan on ")
    assert sentence.count("/train/") == 2
    assert "the gradient of the parameter roi_head.bbox_head." in sentence
    # The step was not taken, and the checkpoint is from before.
    assert all(torch.isfinite(parameter).all() for parameter in runner.model.parameters())
    assert "iter_2.pth" in os.listdir(cfg.work_dir)
    assert "iter_4.pth" not in os.listdir(cfg.work_dir)


def test_a_parameter_that_is_not_finite_is_named(tiny_config):
    _, sentence = train(tiny_config("eql", max_iters=2), spoil_parameter, 2)
    assert "(the parameter rpn_head.rpn_cls.bias is not finite)" in sentence


def test_a_spoilt_model_is_not_saved(tiny_config):
    cfg = tiny_config("eql", max_iters=4)
    hooks = [hook for hook in cfg.custom_hooks if hook["type"] != "FiniteLossHook"]
    _, sentence = train(cfg, spoil_loss, 4, hooks)
    assert "holds NaN or infinity after iteration 4, which is not saved" in sentence
    assert [name for name in os.listdir(cfg.work_dir) if name.endswith(".pth")] == ["iter_2.pth"]
