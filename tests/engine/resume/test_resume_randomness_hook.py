"""Runs that are broken off and resumed end with the weights of unbroken ones."""

import os
import random
import shutil
from typing import ClassVar

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.utils.errors import UserError


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_ends_with_the_same_weights(tiny_config, tmp_path, num_workers):
    cfg = tiny_config("eql", max_iters=4)
    cfg.launcher = "none"
    # A validation in the middle, which the resumed run does not repeat.
    cfg.train_cfg.val_interval = 2
    cfg.val_dataloader.dataset.indices = 4
    cfg.train_dataloader.update(num_workers=num_workers, persistent_workers=num_workers > 0)

    def train(cfg):
        # Runs may start in any state.
        torch.manual_seed(torch.seed())
        build_runner(cfg).train()
        return torch.load(tmp_path / "work_dir" / "iter_4.pth", weights_only=False)["state_dict"]

    unbroken = train(cfg.copy())
    (tmp_path / "work_dir" / "iter_4.pth").unlink()
    (tmp_path / "work_dir" / "last_checkpoint").write_text(
        str(tmp_path / "work_dir" / "iter_2.pth")
    )
    resumed = cfg.copy()
    set_resume(resumed, "auto")
    resumed = train(resumed)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


SAMPLERS = {
    "repeat factor": dict(type="RepeatFactorSampler", repeat_threshold=0.5, infinite=True),
    "category": dict(type="CategoryAwareSampler", infinite=True),
    "finite": dict(type="RepeatFactorSampler", repeat_threshold=0.5),
    "stock": dict(type="InfiniteSampler", shuffle=True),
}


@HOOKS.register_module()
class DrawRecorder(Hook):
    """Notes what each iteration draws."""

    seen: ClassVar[list] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        samples = data_batch["data_samples"]
        # What was drawn for the images is in "flip", what is drawn for the step comes now.
        drawn = [(sample.img_id, sample.flip) for sample in samples]
        self.seen.append((runner.iter, runner.epoch, drawn, random.random()))


@pytest.fixture
def seen():
    DrawRecorder.seen.clear()
    yield DrawRecorder.seen
    DrawRecorder.seen.clear()


@pytest.mark.parametrize("loading", ["single", "grouped", "workers"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_resumed_run_without_a_seed(tiny_config, tmp_path, seen, sampler, loading):
    cfg = tiny_config("softmax", max_iters=4)
    # No seed: each start draws one of its own.
    cfg.randomness = dict(seed=None)
    cfg.launcher = "none"
    cfg.train_dataloader.sampler = dict(sampler)
    if loading == "workers":
        # They read ahead of the iteration, and must not have begun where a fresh run begins.
        cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    if loading == "grouped":
        cfg.train_dataloader.batch_sampler = dict(type="AspectRatioBatchSampler")
    cfg.custom_hooks.append(dict(type="DrawRecorder"))
    # Both runs take no step: what is drawn matters, not what is learned.
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    build_runner(cfg.copy()).train()
    unbroken = list(seen)
    assert len(unbroken) == 4

    seen.clear()
    (tmp_path / "work_dir" / "last_checkpoint").write_text(
        str(tmp_path / "work_dir" / "iter_2.pth")
    )
    resumed = cfg.copy()
    set_resume(resumed, "auto")
    build_runner(resumed).train()
    assert seen == unbroken[2:]


def epoch_based(cfg, num_workers):
    """Three epochs of unequal length."""
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3)
    cfg.param_scheduler = []
    cfg.train_dataloader.sampler = dict(type="RepeatFactorSampler", repeat_threshold=0.3)
    cfg.train_dataloader.update(
        batch_size=1, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    cfg.train_dataloader.dataset.indices = 6
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=-1)
    cfg.custom_hooks.append(dict(type="DrawRecorder"))
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.launcher = "none"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_of_unequal_length(tiny_config, tmp_path, seen, num_workers):
    cfg = tiny_config("softmax")
    cfg.randomness = dict(seed=4)
    epoch_based(cfg, num_workers)
    build_runner(cfg.copy()).train()
    unbroken = list(seen)
    lengths = [sum(epoch == drawn[1] for drawn in unbroken) for epoch in range(3)]
    assert len(set(lengths)) > 1, lengths
    folder = tmp_path / "work_dir"
    # In the middle of the second epoch, and after the third has begun.
    for iteration in (lengths[0] + 4, lengths[0] + lengths[1] + 2):
        seen.clear()
        resumed = cfg.copy()
        resumed.work_dir = str(tmp_path / f"from_{iteration}")
        os.mkdir(resumed.work_dir)
        shutil.copy(folder / f"iter_{iteration}.pth", resumed.work_dir)
        set_resume(resumed, "auto")
        build_runner(resumed).train()
        assert seen == unbroken[iteration:]


def test_another_batch_size_is_refused(tiny_config):
    cfg = tiny_config("softmax", max_iters=2)
    cfg.launcher = "none"
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    build_runner(cfg.copy()).train()
    cfg.train_dataloader.batch_size = 3
    set_resume(cfg, "auto")
    with pytest.raises(UserError, match=r"batch_size: 3 images .* is of a run with 2"):
        build_runner(cfg).train()
