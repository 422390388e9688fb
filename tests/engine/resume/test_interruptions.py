"""Runs that are stopped, killed or run out of space, and what they leave and go on from."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdet_eql.engine.launch import (
    build_runner,
    enable_determinism,
    find_last_checkpoint,
    set_resume,
)
from mmdet_eql.engine.resume.checkpoint_hook import AtomicLocalBackend
from mmdet_eql.engine.resume.interruption_hook import STOPPED_AND_SAVED, InterruptionHook
from mmdet_eql.utils.errors import UserError


class Interrupter(Hook):
    """Does something after an iteration of training or of validation."""

    def __init__(self, action, iteration=None, validation=None):
        self.action = action
        self.iteration = iteration
        self.validation = validation

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.validation:
            self.action()


class Killed(Exception):
    """Stands for SIGKILL, in a process that has to live on."""


def kill():
    raise Killed


def terminate_all():
    """As Slurm does: this process and its workers, by another process."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    subprocess.run(["kill", "-TERM", *map(str, pids)], check=True)


def epoch_based(cfg):
    """Two epochs of four iterations."""
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
    cfg.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    cfg.train_dataloader.batch_sampler = dict(type="AspectRatioBatchSampler")
    cfg.train_dataloader.dataset.indices = 8
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    cfg.log_processor.by_epoch = True


@pytest.fixture
def make_config(tiny_config, tmp_path):
    def make(name, method="eql", max_iters=4):
        cfg = tiny_config(method, max_iters)
        cfg.launcher = "none"
        cfg.work_dir = str(tmp_path / name)
        cfg.val_dataloader.dataset.indices = 4
        return cfg

    return make


def interrupted(cfg, action, expected, **when):
    """Train until ``action`` ends it, and return what it ended with."""
    runner = build_runner(cfg.copy())
    runner.register_hook(Interrupter(action, **when))
    with pytest.raises(expected) as caught:
        runner.train()
    return caught.value


def resumed(cfg):
    cfg = cfg.copy()
    set_resume(cfg, "auto")
    runner = build_runner(cfg)
    runner.train()
    return runner


def resumed_validations(cfg):
    """Resume, and return after which iterations it validated."""
    seen = []
    cfg = cfg.copy()
    set_resume(cfg, "auto")
    runner = build_runner(cfg)
    hook = Hook()
    hook.before_val = lambda runner: seen.append(runner.iter)
    runner.register_hook(hook)
    runner.train()
    return seen


def last(cfg, name):
    return torch.load(os.path.join(cfg.work_dir, name), weights_only=False)


def assert_same(one, other):
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]) or value.isnan().any(), key
    momenta = [checkpoint["optimizer"]["state"] for checkpoint in (one, other)]
    for key, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][key]["momentum_buffer"])
    assert one["param_schedulers"] == other["param_schedulers"]
    for record in ("best_score", "iter_validated"):
        runtime = [checkpoint["message_hub"]["runtime_info"] for checkpoint in (one, other)]
        assert runtime[0].get(record) == runtime[1].get(record), record


@pytest.mark.parametrize("loop", ["iterations", "epochs"])
def test_sigterm_saves_and_the_resumed_run_ends_alike(make_config, loop):
    # EQL v2 keeps a state, and the epochs' batches are grouped.
    cfg = make_config("broken", "eqlv2" if loop == "iterations" else "eql")
    if loop != "iterations":
        epoch_based(cfg)
        cfg.train_dataloader.update(num_workers=2, persistent_workers=False)
    final = "iter_4.pth" if loop == "iterations" else "epoch_2.pth"
    cfg.default_hooks.checkpoint.save_best = "lvis/bbox_AP50"
    cfg.default_hooks.checkpoint.rule = "greater"
    unbroken = cfg.copy()
    unbroken.work_dir = cfg.work_dir + "_not"
    build_runner(unbroken).train()

    before = signal.getsignal(signal.SIGTERM)
    ended = interrupted(cfg, terminate_all, SystemExit, iteration=3)
    assert ended.code == STOPPED_AND_SAVED == 75
    assert signal.getsignal(signal.SIGTERM) == before
    assert last(cfg, "iter_3.pth")["meta"]["iter"] == 3
    resumed(cfg)
    assert_same(last(cfg, final), last(unbroken, final))
    # The checkpoint within the epoch has done its duty.
    assert os.path.exists(os.path.join(cfg.work_dir, "iter_3.pth")) == (loop == "iterations")


def test_a_killed_validation_is_done_again(make_config):
    cfg = make_config("broken", max_iters=4)
    cfg.train_cfg.val_interval = 3  # where the interval of checkpoints has none
    cfg.default_hooks.checkpoint.save_best = "lvis/bbox_AP50"
    cfg.default_hooks.checkpoint.rule = "greater"
    unbroken = cfg.copy()
    unbroken.work_dir = cfg.work_dir + "_not"
    build_runner(unbroken).train()
    interrupted(cfg, kill, Killed, validation=3)
    assert resumed_validations(cfg) == [3, 4]
    assert_same(last(cfg, "iter_4.pth"), last(unbroken, "iter_4.pth"))
    records = [last(c, "iter_4.pth")["message_hub"]["runtime_info"] for c in (cfg, unbroken)]
    assert os.path.basename(records[0]["best_ckpt"]) == os.path.basename(records[1]["best_ckpt"])
    # All is done: resuming once more validates nothing.
    assert resumed_validations(cfg) == []


def test_nothing_to_resume_starts_from_load_from(make_config):
    cfg = make_config("second_stage")
    cfg.load_from = "first_stage.pth"
    set_resume(cfg, "auto")
    assert cfg.load_from == "first_stage.pth"
    assert not cfg.get("resume")


def test_processes_that_a_run_forks_can_be_terminated():
    hook = InterruptionHook()
    hook._listen()
    try:
        context = multiprocessing.get_context("fork")
        runs = context.Event()
        forked = context.Process(target=lambda: runs.set() or time.sleep(60))
        forked.start()
        assert runs.wait(60)
        forked.terminate()
        forked.join(10)
        assert forked.exitcode == -signal.SIGTERM
    finally:
        hook._restore()
    assert hook._received == 0


def test_a_cut_off_checkpoint_is_passed_over(make_config, capfd):
    cfg = make_config("broken", max_iters=4)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    build_runner(cfg.copy()).train()
    whole = last(cfg, "iter_4.pth")
    path = Path(cfg.work_dir) / "iter_4.pth"
    content = path.read_bytes()
    for damaged in (content[:-100], content[: len(content) // 2], b"", b"\0" * len(content)):
        path.write_bytes(damaged)
        chosen = cfg.copy()
        set_resume(chosen, "auto")
        assert chosen.load_from.endswith("iter_2.pth")
        assert "iter_4.pth" in (told := capfd.readouterr().err)
        assert "iter_2.pth instead" in told
    (path.parent / "last_checkpoint").write_text("")
    resumed(cfg)
    assert_same(last(cfg, "iter_4.pth"), whole)
    for name in ("iter_2.pth", "iter_4.pth"):
        (path.parent / name).write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="none of its checkpoints can be resumed from"):
        resumed(cfg)


def test_a_copied_folder_goes_on_from_its_own_checkpoint(tmp_path):
    checkpoint = dict(meta=dict(iter=1, epoch=0), state_dict={}, message_hub={}, optimizer={})
    paths = [tmp_path / name / "iter_1.pth" for name in ("run", "copy")]
    for path in paths:
        path.parent.mkdir()
        torch.save(checkpoint, path)
    (paths[1].parent / "last_checkpoint").write_text(str(paths[0]))
    cfg = Config(dict(work_dir=str(paths[1].parent)))
    assert find_last_checkpoint(cfg) == str(paths[1])


def test_a_full_disk_leaves_the_last_checkpoint(make_config):
    cfg = make_config("full", max_iters=4)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The system refuses to write larger files, as it does when the disk is full.
        ended = interrupted(
            cfg,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1])),
            UserError,
            iteration=3,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "iter_4.pth: cannot be written (File too large)" in str(ended)
    assert "--resume" in str(ended)
    files = [name for name in os.listdir(cfg.work_dir) if "iter" in name]
    assert files == ["iter_2.pth"]
    assert last(cfg, "iter_2.pth")["meta"]["iter"] == 2
    resumed(cfg)
    assert "iter_2.pth" not in os.listdir(cfg.work_dir)


def test_what_a_killed_write_left_is_cleared_away(make_config, tmp_path):
    cfg = make_config("run", max_iters=2)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    finished = subprocess.Popen(["true"])
    finished.wait()
    left = Path(cfg.work_dir) / f".iter_2.pth.{finished.pid}.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half a checkpoint")
    build_runner(cfg).train()
    assert not left.exists()


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    backend = AtomicLocalBackend()
    backend.put(b"whole", tmp_path / "file")
    with pytest.raises(TypeError):
        backend.put("no bytes", tmp_path / "file")

    def full(file):  # file systems that write late say it here
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"file: cannot be written \(No space left on device\)"):
        backend.put(b"half", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]


def test_the_determinism_switch_gives_the_same_weights(make_config):
    weights = []
    for name in ("one", "two"):
        cfg = make_config(name, max_iters=2)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.randomness = dict(seed=None)
        enable_determinism(cfg)
        try:
            runner = build_runner(cfg)
            assert torch.are_deterministic_algorithms_enabled()
            runner.train()
        finally:
            torch.use_deterministic_algorithms(False)
        weights.append(last(cfg, "iter_2.pth"))
    assert weights[0]["meta"]["seed"] == 0
    assert_same(*weights)


def test_the_best_checkpoints_of_several_metrics(make_config):
    cfg = make_config("run", max_iters=3)
    cfg.train_cfg.val_interval = 1
    cfg.default_hooks.checkpoint.save_best = ["lvis/bbox_AP50", "lvis/segm_AP50"]
    scores = iter([(0.1, 0.3), (0.2, 0.2), (0.3, 0.4)])
    runner = build_runner(cfg)
    for metric in runner.val_evaluator.metrics:
        metric.compute_metrics = lambda results: dict(
            zip(("bbox_AP50", "segm_AP50"), next(scores), strict=True)
        )
    seen = []
    hook = Hook()
    hook.after_val = lambda runner: seen.append(
        sorted(path.name for path in Path(cfg.work_dir).glob("best*"))
    )
    runner.register_hook(hook)
    runner.train()
    names = "best_lvis_bbox_AP50_iter_{}.pth", "best_lvis_segm_AP50_iter_{}.pth"
    kept = [(1, 1), (2, 1), (3, 3)]
    assert seen == [[n.format(i) for n, i in zip(names, k, strict=True)] for k in kept]


@pytest.mark.parametrize(("key", "is_known"), [("auto", True), ("lvis/bbox_AP51", False)])
def test_the_metric_of_the_best_checkpoint(make_config, key, is_known):
    cfg = make_config("run", max_iters=2)
    cfg.default_hooks.checkpoint.save_best = key
    runner = build_runner(cfg)
    if is_known:
        runner.train()
        assert list(Path(cfg.work_dir).glob("best_lvis_bbox_AP_*.pth"))
    else:
        with pytest.raises(UserError, match=r"no metric 'lvis/bbox_AP51'; choose one of lvis/bbox"):
            runner.train()
