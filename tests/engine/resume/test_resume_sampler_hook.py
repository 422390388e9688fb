"""Runs that are broken off and resumed draw what unbroken ones draw."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdet_eql.engine import ResumeSamplerHook
from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset

SAMPLERS = {
    "repeat factor": dict(type="RepeatFactorSampler", repeat_threshold=0.5, infinite=True),
    "category": dict(type="CategoryAwareSampler", infinite=True),
    "finite": dict(type="RepeatFactorSampler", repeat_threshold=0.5),
    "stock": dict(type="InfiniteSampler", shuffle=True),
}


@HOOKS.register_module()
class ImageIdRecorder(Hook):
    """Notes which images each iteration trains on."""

    seen: ClassVar[list] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        ids = [sample.img_id for sample in data_batch["data_samples"]]
        self.seen.append((runner.iter, ids))


@pytest.fixture
def seen():
    ImageIdRecorder.seen.clear()
    yield ImageIdRecorder.seen
    ImageIdRecorder.seen.clear()


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
        cfg.train_dataloader.batch_sampler = dict(type="ResumableAspectRatioBatchSampler")
    cfg.custom_hooks.append(dict(type="ImageIdRecorder"))
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


def test_an_endless_sampler_in_an_epoch_based_loop(minilvis):
    dataset = build_dataset(minilvis)
    for sampler in ("RepeatFactorSampler", "InfiniteSampler"):
        config = dict(type=sampler, **({"infinite": True} if "Repeat" in sampler else {}))
        dataloader = Runner.build_dataloader(
            dict(dataset=dataset, sampler=config, batch_size=2, num_workers=0), seed=0
        )
        loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
        loop.dataloader = dataloader
        runner = SimpleNamespace(train_loop=loop, iter=0, seed=0, _randomness_cfg={})
        with pytest.raises(UserError, match=f"sampler: {sampler} never ends an epoch"):
            ResumeSamplerHook().before_train(runner)
