"""What is logged of the tail agrees with the gradients that the losses give."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mmdet_eql.engine import TailStatisticsHook, gradient_record_hook
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.engine.tail_statistics_hook import count_ignored
from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.utils.errors import UserError
from tests.engine.test_gradient_record_hook import FREQUENCY, runner_of

C = len(FREQUENCY)
LABELS = torch.tensor([0, 1, 1, 3, 4, 5, 5, 5])  # three of background


def ignored_negatives(loss, labels, **known):
    """The size of the tail, and the share of negatives that are ignored."""
    size, ignored, negatives = count_ignored(loss, labels, **known)
    return size, ignored / negatives


LOSSES = {
    "EQL": dict(type="EqualizationLoss", lambda_=0.1),
    "EQL, background too": dict(type="EqualizationLoss", lambda_=0.1, exclude_background=False),
    "sigmoid": dict(type="EqualizationLoss", lambda_=0),
    "exponential decay": dict(
        type="EqualizationLoss", tail_weighting=dict(type="ExponentialDecayTail", a=2.0, n=2.0)
    ),
    "image-level labels": dict(type="EqualizationLoss", lambda_=0.1, image_level_labels=True),
    "softmax EQL": dict(type="SoftmaxEqualizationLoss", lambda_=0.1, gamma=1.0),
}


def build(options):
    loss = MODELS.build(dict(options, num_classes=C, reduction="sum"))
    if hasattr(loss, "set_class_frequency"):
        loss.set_class_frequency(FREQUENCY.frequency)
    return loss


@pytest.mark.parametrize("name", LOSSES)
def test_the_share_is_that_of_the_gradients(name):
    loss = build(LOSSES[name])
    options = {}
    if "image" in name:
        verified = torch.rand(3, C, generator=torch.Generator().manual_seed(0)) < 0.5
        options = dict(verified=verified, image=torch.arange(len(LABELS)) % 3)
    logits = torch.zeros(len(LABELS), loss.get_cls_channels(C), requires_grad=True)
    loss(logits, LABELS, **options).backward()
    plain = build(
        dict(LOSSES[name], lambda_=0, tail_weighting=None, image_level_labels=False)
        if "softmax" not in name
        else dict(LOSSES[name], lambda_=0)
    )
    plain_logits = torch.zeros_like(logits, requires_grad=True)
    plain(plain_logits, LABELS).backward()

    negative = torch.arange(C) != LABELS[:, None]
    ours, all_of_it = (each.grad[:, :C][negative] for each in (logits, plain_logits))
    if "softmax" in name:
        expected = (ours == 0).double().mean()
    else:
        expected = 1 - ours.double().sum() / all_of_it.double().sum()
    size, share = ignored_negatives(loss, LABELS, **options)
    torch.testing.assert_close(share.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(size, loss.tail_weights().sum())


def test_a_probability_counts_in_part():
    always, sometimes = (build(dict(LOSSES["softmax EQL"], gamma=gamma)) for gamma in (1.0, 0.25))
    share = ignored_negatives(always, LABELS)[1]
    torch.testing.assert_close(ignored_negatives(sometimes, LABELS)[1], 0.25 * share)


def test_eql_v2_takes_away_what_its_weights_say():
    loss = build(dict(type="EqualizationLossV2"))
    assert ignored_negatives(loss, LABELS)[0] == 0
    loss(torch.zeros(len(LABELS), C + 1, requires_grad=True), LABELS)
    size, share = ignored_negatives(loss, LABELS)
    away = 1 - loss.class_weights()[1][:-1]
    torch.testing.assert_close(size, away.sum())
    negative = torch.arange(C) != LABELS[:, None]
    torch.testing.assert_close(share, (negative * away).sum() / negative.sum())


def test_levels_of_a_dense_head_count_together():
    """Not as the mean of their shares: a level without objects would count like one with many."""
    loss = EqualizationLoss(num_classes=4, lambda_=0.1)
    loss.set_class_frequency(torch.tensor([0.5, 0.2, 0.01, 0.001]))
    hook, logged = TailStatisticsHook(interval=1), {}
    runner = SimpleNamespace(
        model=loss,
        iter=0,
        message_hub=SimpleNamespace(
            update_scalar=lambda name, value, **_: logged.update({name: value})
        ),
    )
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    levels = [torch.full((50,), 4), torch.tensor([0, 3])]
    for labels in levels:
        loss(torch.zeros(len(labels), 4), (labels, torch.ones(len(labels))))
    hook.after_train_iter(runner, 0)
    # 200 negatives of background, 3 + 3 of the foreground, of which those in the tail: 2 + 1.
    assert logged["train/ignored_negatives"] == pytest.approx(3 / 206)
    assert logged["train/tail_size"] == 2


def test_figures_reach_the_log(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_record_hook, "_LOG_INTERVAL", 2)
    cfg = tiny_config("eql", max_iters=4)
    cfg.launcher = "none"
    cfg.train_cfg.val_begin = 100  # none
    cfg.default_hooks.tail_statistics = dict(type="TailStatisticsHook", interval=2)
    cfg.default_hooks.gradient_record = dict(type="GradientRecordHook")
    runner = build_runner(cfg)
    runner.train()
    (path,) = (tmp_path / "work_dir").glob("*/vis_data/scalars.json")
    last = json.loads(path.read_text().splitlines()[-1])
    tail = runner.model.roi_head.bbox_head.loss_cls.tail_weights()
    assert last["tail_size"] == tail.sum() > 0
    assert 0 < last["ignored_negatives"] < 1
    ratios = {key: value for key, value in last.items() if key.startswith("gradient_ratio_")}
    assert ratios
    assert all(value >= 0 for value in ratios.values())
    (folder,) = (tmp_path / "work_dir").glob("*/vis_data")
    curves = EventAccumulator(str(folder)).Reload()
    (size,) = (event.value for event in curves.Scalars("tail_size") if event.step == 4)
    assert size == last["tail_size"]
    assert set(ratios) <= set(curves.Tags()["scalars"])
    assert not any(module._forward_pre_hooks for module in runner.model.modules())


def test_a_model_without_a_tail_is_refused(tmp_path):
    model = nn.Sequential(MODELS.build(dict(type="FederatedLoss", num_classes=C)))
    with pytest.raises(UserError, match="no loss of the model has a tail"):
        TailStatisticsHook().before_train(runner_of(model, FREQUENCY, tmp_path))
    with pytest.raises(UserError, match="interval is 0"):
        TailStatisticsHook(interval=0)
