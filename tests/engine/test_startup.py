"""What a run shows when it starts, and what it leaves to its log file."""

import logging
import warnings
from types import SimpleNamespace

import mmengine.dist
import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel

from mmdet_eql.engine.launch import build_runner, read_config
from mmdet_eql.engine.resume.checkpoint_hook import _warn_of_earlier_checkpoints
from mmdet_eql.engine.startup import training_summary
from tests.conftest import log_of, minilvis_config


@pytest.fixture
def lines(tiny_config, tmp_path, monkeypatch, capfd):
    """Lines of the terminal, and the text of the log file, of a training of one iteration."""
    logging.captureWarnings(False)
    monkeypatch.setattr(BaseModel, "train_step", lambda model, data, optim_wrapper: {})
    cfg = tiny_config("eql", max_iters=1)
    cfg.launcher = "none"
    cfg.val_dataloader.dataset.indices = 1
    backbone = tmp_path / "backbone.pth"
    torch.save({"conv1.bias": torch.zeros(100_000)}, backbone)
    cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(backbone))
    cfg.train_cfg.val_interval = 5
    runner, hook = build_runner(cfg), Hook()
    hook.before_train = lambda runner: warnings.warn("of another package", stacklevel=1)
    runner.register_hook(hook)
    runner.train()
    logging.captureWarnings(False)
    (log,) = tmp_path.glob("work_dir/*/*.log")
    out, err = capfd.readouterr()
    assert err == ""
    return out.splitlines(), log.read_text()


def test_the_summary(lines, minilvis, tmp_path):
    shown, log = lines
    start, end = (
        next(number for number, line in enumerate(shown) if words in line)
        for words in ("mask-rcnn_r18_fpn_eql_1xb4_minilvis.py", "Iter(train)")
    )
    # The report of the data comes before.
    assert any("The data:" in line for line in shown[:start])
    summary = shown[start:end]
    assert len(summary) <= 21
    for label, words in {
        "data": f"images of {minilvis}/annotations/minilvis_train.json",
        "classes": "12 (",
        "tail": "EqualizationLoss: tail of ",
        "model": "MaskRCNN ResNet 18; 0.2 M parameters, 0.2 M of them trained",
        "schedule": "1 iterations of 2 images x 1 ranks",
        "validation": f"every 5 iterations on 1 images of {minilvis}/annotations/minilvis_val.json",
        "checkpoints": "AtomicCheckpointHook(interval=2",
        "device": "1 x ",
        "results": f"{tmp_path}/work_dir",
    }.items():
        (line,) = [line for line in summary if line.split()[0] == label]
        assert words in line
    text = "\n".join(summary)
    assert "the learning rate is meant for 4 images a step; --auto-scale-lr scales it" in text
    # It is that of MiniLVIS as it is published.
    assert "num_classes = 200 is not used: the heads have the right one" in text
    assert "milestones=[1350, 1650], gamma=0.1): the training ends before 1,650" in text
    assert f"model.backbone.init_cfg: {tmp_path}/backbone.pth (0.4 MB)" in text
    assert "learning rate 0.0002 in the next iteration, 0.02 at its height" in text
    assert text in log


def test_a_schedule_of_iterations_that_ends_in_the_first_epoch(tiny_config):
    cfg = tiny_config("softmax")
    cfg.launcher = "none"
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
    once = dict(type="RepeatFactorSampler", repeat_threshold=0)
    cfg.train_dataloader.sampler = dict(
        type="MixedSampler", samplers=[once], final_weights=[1], num_epochs=3
    )
    cfg.train_dataloader.dataset.indices = 8
    schedule = dict(type="MultiStepLR", by_epoch=False)
    cfg.param_scheduler = [dict(schedule, milestones=[steps]) for steps in (3, 5)]
    # For more epochs than there are; or as many.
    cfg.param_scheduler += [dict(type="CosineAnnealingLR", T_max=n, end=n) for n in (3, 2)]
    told = dict.fromkeys(text for _, text in training_summary(build_runner(cfg, "train", "val")))
    note = "all within the first epoch, since it counts iterations"
    assert f"MultiStepLR(by_epoch=False, milestones=[3]): {note}" in told
    assert "MultiStepLR(by_epoch=False, milestones=[5])" in told
    assert "CosineAnnealingLR(T_max=3, end=3): the training ends before 3" in told
    assert "CosineAnnealingLR(T_max=2, end=2)" in told
    assert any("num_epochs=3): the training ends before" in text for text in told)


@pytest.mark.parametrize(("accumulated", "rate"), [(1, 0.01), (2, 0.02)])
def test_a_step_has_the_images_of_all_iterations_that_it_adds_up(tiny_config, accumulated, rate):
    cfg = tiny_config("softmax")
    cfg.launcher = "none"
    cfg.optim_wrapper.accumulative_counts = accumulated
    # Batches of 2 images; the rate of 0.02 is for 4.
    runner = build_runner(cfg, "train", "val")
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, dict(enable=True, base_batch_size=4))
    assert runner.optim_wrapper.get_lr()["lr"] == [rate]
    text = "\n".join(text for _, text in training_summary(runner))
    assert ("x 1 ranks, 2 of them to a step" in text) == (accumulated == 2)
    assert ("meant for 4 images a step" in text) == (accumulated == 1)


def test_checkpoints_of_an_earlier_training_are_named(tmp_path):
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=MMLogger.get_current_instance())
    assert log_of(lambda: _warn_of_earlier_checkpoints(runner)) == ""
    (tmp_path / "epoch_12.pth").touch()
    said = log_of(lambda: _warn_of_earlier_checkpoints(runner))
    assert "holds 1 checkpoints of an earlier training, as epoch_12.pth, which this" in said


def test_what_the_log_file_alone_has(lines):
    shown, log = lines
    for words in ("System environment", "Config:", "Hooks will be executed", "of another package"):
        assert words in log
        assert words not in "\n".join(shown)


def test_one_process_writes_the_metrics_of_a_test(tiny_config, monkeypatch):
    cfg = tiny_config("eql")
    cfg.launcher = "none"
    runner = build_runner(cfg)
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    logged = []
    monkeypatch.setattr(LoggerHook, "after_test_epoch", lambda *args: logged.append(args))
    hook.after_test_epoch(runner, {})
    monkeypatch.setattr(mmengine.dist.utils, "get_rank", lambda group=None: 1)
    hook.after_test_epoch(runner, {})
    assert len(logged) == 1


def test_a_config_is_read_without_a_word(monkeypatch, capfd):
    monkeypatch.setenv("MMDET_EQL_DATA", "elsewhere")
    assert "elsewhere" in read_config(str(minilvis_config("eql"))).data_root
    assert capfd.readouterr() == ("", "")
