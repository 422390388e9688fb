"""Runs that are broken off and resumed end with the weights of unbroken ones."""

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS

from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.engine.resume import resume_randomness_hook
from mmdet_eql.utils.errors import UserError


def test_a_resumed_run_ends_with_the_same_weights(tiny_config, tmp_path):
    cfg = tiny_config("eql", max_iters=4)
    cfg.launcher = "none"
    # A validation in the middle, which the resumed run does not repeat.
    cfg.train_cfg.val_interval = 2
    cfg.val_dataloader.dataset.indices = 4
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)

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


@pytest.mark.parametrize(
    ("sampler", "loading"),
    [
        ("category", "single"),
        ("repeat factor", "grouped"),
        *((sampler, "workers") for sampler in ("repeat factor", "finite", "stock")),
    ],
)
def test_a_resumed_run_without_a_seed(tiny_config, tmp_path, seen, quick_steps, sampler, loading):
    cfg = tiny_config("softmax", max_iters=4)
    # No seed: each start draws one of its own.
    cfg.randomness = dict(seed=None)
    cfg.launcher = "none"
    cfg.train_dataloader.sampler = dict(SAMPLERS[sampler])
    if loading == "workers":
        # They read ahead of the iteration, and must not have begun where a fresh run begins.
        cfg.train_dataloader.update(num_workers=1, persistent_workers=True)
    if loading == "grouped":
        cfg.train_dataloader.batch_sampler = dict(type="AspectRatioBatchSampler")
    cfg.custom_hooks.append(dict(type="DrawRecorder"))
    without_validation(cfg)
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


@pytest.fixture
def quick_steps(monkeypatch):
    """Steps that train nothing but one weight, by what is drawn."""

    def train_step(model, data, optim_wrapper):
        with torch.no_grad():
            ids = sum(sample.img_id for sample in data["data_samples"])
            weight_of(model).add_(ids * torch.rand(1))
        return {}

    monkeypatch.setattr(BaseModel, "train_step", train_step)


def weight_of(model):
    return model.roi_head.bbox_head.fc_cls.bias[:1]


def epoch_based(cfg, num_workers=0):
    """Three epochs of unequal length."""
    cfg.randomness = dict(seed=4)
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=3)
    cfg.param_scheduler = []
    cfg.train_dataloader.sampler = dict(type="RepeatFactorSampler", repeat_threshold=0.5)
    cfg.train_dataloader.update(
        batch_size=1, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    cfg.train_dataloader.dataset.indices = 4
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=3, max_keep_ckpts=-1)
    cfg.custom_hooks.append(dict(type="DrawRecorder"))
    cfg.launcher = "none"


def without_validation(cfg):
    cfg.launcher = "none"
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def lengths_of(draws):
    lengths = [sum(epoch == drawn[1] for drawn in draws) for epoch in range(3)]
    assert len(set(lengths)) > 1, lengths
    return lengths


def resume(cfg, edit=lambda cfg: None):
    cfg = copy.deepcopy(cfg)
    edit(cfg)
    set_resume(cfg, "auto")
    build_runner(cfg).train()


# Within the first epoch, in the middle of the second, and after the third has begun.
@pytest.mark.parametrize(("num_workers", "broken_off"), [(0, [15]), (2, [3, 15, 24])])
def test_epochs_of_unequal_length(
    tiny_config, tmp_path, seen, quick_steps, num_workers, broken_off
):
    cfg = tiny_config("softmax")
    epoch_based(cfg, num_workers)
    without_validation(cfg)
    build_runner(cfg.copy()).train()
    unbroken = list(seen)
    lengths = lengths_of(unbroken)
    folder = tmp_path / "work_dir"
    assert lengths == [10, 12, 11]
    for iteration in broken_off:
        seen.clear()
        resumed = cfg.copy()
        resumed.work_dir = str(tmp_path / f"from_{iteration}")
        os.mkdir(resumed.work_dir)
        shutil.copy(folder / f"iter_{iteration}.pth", resumed.work_dir)
        resume(resumed)
        assert seen == unbroken[iteration:]


class Killed(Exception):
    """Stands for SIGKILL, in a process that has to live on."""


def test_killed_epochs_end_alike(tiny_config, tmp_path, seen, quick_steps):
    cfg = tiny_config("softmax")
    epoch_based(cfg)
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    cfg.val_dataloader.dataset.indices = 1
    cfg.train_cfg.val_interval = 1
    metrics = []

    def run(cfg, when=""):
        runner, hook = build_runner(cfg), Hook()
        hook.priority = "LOWEST"
        hook.after_val_epoch = lambda runner, **kwargs: metrics.append(
            (runner.epoch, runner.iter, weight_of(runner.model).item(), kwargs["metrics"])
        )

        def strike(runner, **kwargs):
            begun = runner.message_hub.get_info("epoch_began")[1]
            within = when == "within epoch 3" and runner.iter == begun + 2
            if runner.epoch == epoch and (within or when != "within epoch 3"):
                raise Killed

        if when:
            place, epoch = {
                "after epoch 2": ("after_train_epoch", 1),
                "within epoch 3": ("after_train_iter", 2),
                "in the last validation": ("after_val_iter", 3),
            }[when]
            setattr(hook, place, strike)
        runner.register_hook(hook)
        runner.train()

    run(cfg.copy())
    unbroken, lengths, expected = list(seen), lengths_of(seen), list(metrics)
    assert [metric[0] for metric in expected] == [1, 2, 3]
    for when, resumed_epochs, resumed_validations in (
        ("after epoch 2", 1, 2),
        ("within epoch 3", 1, 1),
        ("in the last validation", 0, 1),
    ):
        killed = cfg.copy()
        killed.work_dir = str(tmp_path / when)
        with pytest.raises(Killed):
            run(killed.copy(), when)
        seen.clear()
        metrics.clear()
        set_resume(killed, "auto")
        assert killed.load_from.endswith(f"epoch_{3 - resumed_epochs}.pth")
        run(killed)
        assert seen == (unbroken[-lengths[2] :] if resumed_epochs else []), when
        assert metrics == expected[-resumed_validations:], when


def test_another_batch_or_data_set_is_refused(tiny_config, tmp_path, quick_steps, monkeypatch):
    # One epoch of 6 images in batches of 2.
    cfg = tiny_config("softmax")
    epoch_based(cfg)
    without_validation(cfg)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.by_epoch = True
    cfg.train_dataloader.sampler = dict(type="DefaultSampler")
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.indices = 6
    build_runner(cfg.copy()).train()
    cfg.train_cfg.max_epochs = 2
    sentence = (
        r"^train_dataloader\.batch_size x ranks is 6, but was 2 in the run of the checkpoint;"
    )
    with pytest.raises(UserError, match=sentence):
        resume(cfg, lambda cfg: cfg.train_dataloader.update(batch_size=6))
    with monkeypatch.context() as patch:
        patch.setattr(resume_randomness_hook, "get_world_size", lambda: 3)
        with pytest.raises(UserError, match=sentence):
            resume(cfg)
    sentence = r"number of images of train_dataloader\.dataset is 7, but was 6 in the run"
    with pytest.raises(UserError, match=sentence):
        resume(cfg, lambda cfg: cfg.train_dataloader.dataset.update(indices=7))
    # Of as many images; an annotation is left out.
    dataset = cfg.train_dataloader.dataset
    content = json.loads(Path(dataset.data_root, dataset.ann_file).read_bytes())
    images = [annotation["image_id"] for annotation in content["annotations"]]
    twice = next(place for place, image in enumerate(images) if image in images[:place])
    del content["annotations"][twice]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    sentence = r"categories of train_dataloader\.dataset and their counts is \d+, but was \d+ in"
    with pytest.raises(UserError, match=sentence):
        resume(cfg, lambda cfg: cfg.train_dataloader.dataset.update(ann_file=str(other)))
    # As if another node had no checkpoint.
    with monkeypatch.context() as patch:
        patch.setattr(resume_randomness_hook, "all_gather_object", lambda iteration: [iteration, 0])
        with pytest.raises(UserError, match="resume after iteration 3, others after 0"):
            resume(cfg)
    resume(cfg)


def test_schedules_that_the_checkpoint_overrules(tiny_config, tmp_path, quick_steps):
    cfg = tiny_config("softmax", max_iters=2)
    without_validation(cfg)
    cfg.param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[1], gamma=0.1)]
    build_runner(cfg.copy()).train()

    def edit(cfg):
        cfg.train_cfg.max_iters = 3
        cfg.optim_wrapper.optimizer.lr = 1.0
        # These are not in the checkpoint.
        cfg.model.roi_head.bbox_head.loss_cls.loss_weight = 0.5
        cfg.train_dataloader.sampler.shuffle = False
        cfg.optim_wrapper.accumulative_counts = 2
        cfg.randomness.seed = 7

    resume(cfg, edit)
    text = max((tmp_path / "work_dir").glob("*/*.log"), key=os.path.getmtime).read_text()
    assert "WARNING - optim_wrapper.optimizer of the config is not that of the resumed" in text
    assert "param_scheduler of the config is not" not in text
    changed = (
        "WARNING - model.roi_head.bbox_head.loss_cls.loss_weight is 0.5, but was None in the run",
        "WARNING - train_dataloader.sampler.shuffle is False, but was True in the run",
        "WARNING - optim_wrapper.accumulative_counts is 2, but was None in the run",
    )
    assert all(sentence in text for sentence in changed)
    assert "was trained with the seed 0, which stays in force, not 7" in text
    # The rate of the checkpoint, after its milestone.
    assert "learning rate 0.002 in the next iteration, 0.02 at its height" in text
    resume(cfg, edit)
    text = max((tmp_path / "work_dir").glob("*/*.log"), key=os.path.getmtime).read_text()
    assert "iter_3.pth, after iteration 3 (epoch 0): nothing is left to train" in text
    # The same model as before; logs of the same second are one file.
    logs = "".join(path.read_text() for path in (tmp_path / "work_dir").glob("*/*.log"))
    assert [logs.count(sentence) for sentence in changed] == [1, 1, 1]
    # Without the optimizer, the learning rate would begin anew.
    path = tmp_path / "work_dir" / "iter_2.pth"
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["optimizer"]
    torch.save(checkpoint, path)
    cfg.update(resume=True, load_from=str(path))
    with pytest.raises(UserError, match=r"iter_2\.pth: cannot be resumed from, .* no optimizer;"):
        build_runner(cfg)
