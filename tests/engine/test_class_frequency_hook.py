"""Frequencies on their way from the dataset to the loss, in a real runner."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmdet_eql.engine import ClassFrequencyHook
from mmdet_eql.engine.class_frequency_hook import _warn_of_tails
from mmdet_eql.losses import EqualizationLoss, EqualizationLossV2
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset, log_of, minilvis_config, tiny_options


def loss_of(runner):
    return runner.model.roi_head.bbox_head.loss_cls


@pytest.fixture(scope="module")
def trained(minilvis, tmp_path_factory) -> Path:
    """The checkpoint of a training."""
    cfg = Config.fromfile(minilvis_config("eql"))
    cfg.merge_from_dict(tiny_options(minilvis, max_iters=2))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir = str(tmp_path_factory.mktemp("trained"))
    Runner.from_cfg(cfg).train()
    return Path(cfg.work_dir, "iter_2.pth")


def test_training_hands_frequencies_over_and_keeps_them(tiny_config, tmp_path):
    runner = Runner.from_cfg(tiny_config(max_iters=2))
    weight_before = runner.model.roi_head.bbox_head.fc_cls.weight.clone()
    assert torch.isnan(loss_of(runner).class_frequency).all()
    runner.train()
    expected = torch.from_numpy(runner.train_dataloader.dataset.class_frequency.frequency)
    assert torch.equal(loss_of(runner).class_frequency, expected)
    assert 0 < loss_of(runner).tail_weights().sum() < 12
    assert not torch.equal(runner.model.roi_head.bbox_head.fc_cls.weight, weight_before)

    saved = torch.load(tmp_path / "work_dir" / "iter_2.pth", weights_only=False)["state_dict"]
    assert torch.equal(saved["roi_head.bbox_head.loss_cls.class_frequency"], expected)


def test_a_loss_without_a_tail_says_so():
    loss = EqualizationLoss(num_classes=2, lambda_=0.1)
    runner = SimpleNamespace(logger=MMLogger.get_current_instance())
    for freq, word in (([0.2, 0.1], "no"), ([0.05, 0.01], "every"), ([0.2, 0.01], None)):
        loss.set_class_frequency(torch.tensor(freq))
        said = log_of(lambda: _warn_of_tails([("head.loss_cls", loss, "class_frequency")], runner))
        assert (f"head.loss_cls: {word} category of the training" in said) == (word is not None)
    plain = EqualizationLoss(num_classes=2, lambda_=0)
    assert log_of(lambda: _warn_of_tails([("loss", plain, "class_frequency")], runner)) == ""


def test_classifier_starts_at_its_prior(tiny_config):
    runner = Runner.from_cfg(tiny_config())
    runner.model.init_weights()
    bias = runner.model.roi_head.bbox_head.fc_cls.bias
    assert bias.tolist() == pytest.approx([-math.log(999)] * 12)


def test_resuming_keeps_the_frequencies_of_the_checkpoint(tiny_config, trained, tmp_path):
    path = tmp_path / "iter_2.pth"
    checkpoint = torch.load(trained, weights_only=False)
    changed = torch.linspace(0.01, 0.5, 12, dtype=torch.float64)
    checkpoint["state_dict"]["roi_head.bbox_head.loss_cls.class_frequency"] = changed
    torch.save(checkpoint, path)

    cfg = tiny_config(max_iters=4)
    cfg.resume = True
    cfg.load_from = str(path)
    runner = Runner.from_cfg(cfg)
    messages = []
    runner.logger.warning = messages.append
    runner.train()
    assert runner.iter == 4
    assert torch.equal(loss_of(runner).class_frequency, changed)
    assert any("differ" in message and "kept" in message for message in messages)


def test_fine_tuning_takes_those_of_the_new_dataset(tiny_config, trained, tmp_path):
    path = tmp_path / "iter_2.pth"
    checkpoint = torch.load(trained, weights_only=False)
    key = "roi_head.bbox_head.loss_cls.class_frequency"
    expected = checkpoint["state_dict"][key]
    checkpoint["state_dict"][key] = torch.full((12,), 0.5, dtype=torch.float64)
    torch.save(checkpoint, path)

    cfg = tiny_config(max_iters=2)
    cfg.load_from = str(path)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert torch.equal(loss_of(runner).class_frequency, expected)


def test_evaluation_needs_no_training_annotations(tiny_config, trained):
    cfg = tiny_config()
    cfg.train_dataloader.dataset.ann_file = "annotations/gone.json"
    cfg.load_from = str(trained)
    runner = Runner.from_cfg(cfg)
    figures = runner.test()
    assert "lvis/bbox_APr" in figures
    assert not torch.isnan(loss_of(runner).class_frequency).any()


@pytest.mark.parametrize("num_seen", [0, 1234])
def test_statistics_of_another_training_are_named(num_seen):
    model = torch.nn.ModuleDict({"loss_cls": EqualizationLossV2(3)})
    model.loss_cls.num_seen.fill_(num_seen)
    logger, cfg = MMLogger.get_current_instance(), Config(dict(load_from="a.pth"))
    runner = SimpleNamespace(model=model, iter=0, cfg=cfg, logger=logger)
    text = log_of(lambda: ClassFrequencyHook().before_train(runner))
    assert ("loss_cls: goes on from the statistics of 1,234 samples that a.pth" in text) == (
        num_seen > 0
    )


@pytest.mark.parametrize("head", ["bbox_head", "mask_head"])
def test_a_wrong_number_of_classes_is_one_sentence(tiny_config, head):
    cfg = tiny_config()
    cfg.model.roi_head[head].num_classes = 11
    cfg.model.roi_head.mask_head.class_agnostic = False
    with pytest.raises(UserError, match=f"model.roi_head.{head}.num_classes is 11.*12 categories"):
        Runner.from_cfg(cfg).train()


def test_a_dataset_that_does_not_count_is_one_sentence(tiny_config, minilvis):
    cfg = tiny_config()
    dataset = cfg.train_dataloader.dataset
    dataset.type = "CocoDataset"
    dataset.metainfo = dict(classes=build_dataset(minilvis).metainfo["classes"])
    dataset.filter_cfg = None
    with pytest.raises(UserError, match="CocoDataset does not count its categories"):
        Runner.from_cfg(cfg).train()


def test_without_the_hook_the_loss_says_what_is_missing(tiny_config):
    cfg = tiny_config()
    cfg.custom_hooks = []
    with pytest.raises(UserError, match="ClassFrequencyHook"):
        Runner.from_cfg(cfg).train()


def test_logit_adjustment_takes_a_plain_softmax_checkpoint(tiny_config, tmp_path):
    cfg = tiny_config("softmax", max_iters=2)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    Runner.from_cfg(cfg).train()
    cfg = tiny_config("softmax")
    cfg.model.roi_head.bbox_head.loss_cls = dict(type="LogitAdjustedSoftmaxLoss", tau=1.0)
    cfg.load_from = str(tmp_path / "work_dir" / "iter_2.pth")
    runner = Runner.from_cfg(cfg)
    assert "lvis/bbox_APr" in runner.test()
    frequency = loss_of(runner).class_frequency
    assert frequency.shape == (12,)
    assert not torch.isnan(frequency).any()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ClassFrequencyHook))
    for counts in (hook._image_count, [1] * 12):
        loss_of(runner).class_frequency.fill_(torch.nan)
        hook._image_count = counts
        said = log_of(lambda: hook.before_test(runner))
        assert ("was trained on other image counts" in said) == (counts == [1] * 12)

    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        cfg.pop(key)
    with pytest.raises(UserError, match="add train_dataloader to the config"):
        Runner.from_cfg(cfg).test()
