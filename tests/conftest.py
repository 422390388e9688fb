"""A tiny MiniLVIS and runs on it: the real parts, small enough for a test."""

import functools
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.minilvis import MiniLVISConfig, make_minilvis
from mmdet_eql.minilvis.conversion import write_as_coco, write_as_open_images

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
TINY = MiniLVISConfig(num_categories=12, num_train_images=60, num_val_images=24, image_size=96)
#: A model whose step and checkpoint take a fraction of MiniLVIS's.
NARROW = {
    "model.backbone.base_channels": 8,
    "model.neck.in_channels": [8, 16, 32, 64],
    "model.neck.out_channels": 16,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
}


# Ranks are forks of a process that has imported all and run nothing. A fork of this one can wait
# for ever for threads that it has not inherited.
torch.multiprocessing.set_forkserver_preload(["mmdet_eql", "mmdet.models"])
#: Seconds after which ranks that wait for each other are ended.
RANK_LIMIT = 300

#: Long files, the longest first: they start first, so that no process waits for one at the end.
LONG_FILES = (
    "test_tools.py",
    "test_quickstart.py",
    "test_resume_randomness_hook.py",
    "test_killed_sweep.py",
    "test_interruptions.py",
    "test_training.py",
    "test_execution.py",
    "test_detector_ranks.py",
    "test_minilvis.py",
)


def pytest_collection_modifyitems(items):
    place = {name: index for index, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_not_ignored():
    """A job in the background of a script ignores it, and so would what the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The tests' processes share two cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def quick_runs():
    """Spare tiny runs what they do again and again, for longer than they train."""
    from mmengine.config import config
    from mmengine.runner import runner
    from yapf.yapflib import yapf_api

    texts, text_of = {}, Config.pretty_text.fget

    def text_once(cfg):
        key = repr(cfg._cfg_dict)
        if key not in texts:
            texts[key] = text_of(cfg)
        return texts[key]

    def as_it_is(text, **options):
        return text, False

    with pytest.MonkeyPatch.context() as patch:
        # A config is written out seven times in a run.
        patch.setattr(Config, "pretty_text", property(text_once))
        patch.setattr(yapf_api, "FormatCode", as_it_is)
        # OpenMMLab's mmengine has taken it by name.
        patch.setattr(config, "FormatCode", as_it_is, raising=False)
        # This one asks the compiler for its version.
        patch.setattr(runner, "collect_env", functools.cache(runner.collect_env))
        # Each checkpoint would wait for the disk, for the case that the power fails.
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def signals_as_before():
    """Trainings that a test breaks off leave their handlers behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def minilvis(tmp_path_factory) -> Path:
    """A MiniLVIS of 12 categories, 60 training and 24 validation images of 96 pixels."""
    folder = tmp_path_factory.mktemp("data") / "minilvis"
    make_minilvis(folder, TINY, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def minilvis_coco(minilvis, tmp_path_factory) -> Path:
    """The same as a COCO set."""
    folder = tmp_path_factory.mktemp("data") / "minilvis_coco"
    write_as_coco(minilvis, folder)
    return folder


@pytest.fixture(scope="session")
def minilvis_openimages(minilvis, tmp_path_factory) -> Path:
    """The same in the layout of the Open Images Challenge."""
    folder = tmp_path_factory.mktemp("data") / "minilvis_openimages"
    write_as_open_images(minilvis, folder)
    return folder


def build_dataset(folder: Path, **options) -> LVISFormatDataset:
    """The training set of a MiniLVIS folder."""
    options.setdefault("ann_file", "annotations/minilvis_train.json")
    return LVISFormatDataset(data_root=str(folder), data_prefix=dict(img=""), **options)


@pytest.fixture(scope="session")
def train_annotations(minilvis) -> dict:
    """The content of its training annotation file."""
    return json.loads((minilvis / "annotations" / "minilvis_train.json").read_text())


def tiny_options(
    data_root: Path,
    max_iters: int = 4,
    method: str = "eql",
    val_ann_file: str = "annotations/minilvis_val.json",
) -> dict:
    """What turns a MiniLVIS config into a run of a few seconds on the tiny set."""
    options = {
        "train_cfg.max_iters": max_iters,
        "train_cfg.val_interval": max_iters,
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.logger.interval": 1,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
        "train_dataloader.batch_size": 2,
        **NARROW,
        "model.roi_head.bbox_head.num_classes": TINY.num_categories,
        "model.roi_head.mask_head.num_classes": TINY.num_categories,
        "randomness.seed": 0,
    }
    # Rare enough that the tiny set has a tail.
    if method == "eql":
        options["model.roi_head.bbox_head.loss_cls.lambda_"] = 0.1
    for name, split in (("train", "train"), ("val", "val"), ("test", "val")):
        options[f"{name}_dataloader.dataset.data_root"] = str(data_root)
        if split == "val":
            options[f"{name}_evaluator.ann_file"] = str(data_root / val_ann_file)
    for name, index in (("train", 2), ("val", 1), ("test", 1)):
        options[f"{name}_dataloader.dataset.pipeline.{index}.scale"] = (96, 96)
    return options


def minilvis_config(method: str) -> Path:
    """The config file of ``"softmax"``, ``"sigmoid"`` or ``"eql"``."""
    infix = "" if method == "softmax" else f"{method}_"
    return CONFIGS / "minilvis" / f"mask-rcnn_r18_fpn_{infix}1xb4_minilvis.py"


def log_of(function) -> str:
    """What a function logs."""
    lines, logger = [], MMLogger.get_current_instance()
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"{record.levelname} {record.getMessage()}")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        function()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return "\n".join(lines)


@pytest.fixture
def tiny_config(minilvis, tmp_path):
    """Make the config of a run of a few seconds: ``tiny_config(method="eql", max_iters=4)``."""
    # mmengine has one visualizer of a name in a process, which writes where the first run did.
    DetLocalVisualizer._instance_dict.clear()

    def make(method: str = "eql", max_iters: int = 4) -> Config:
        cfg = Config.fromfile(minilvis_config(method))
        cfg.merge_from_dict(tiny_options(minilvis, max_iters, method))
        cfg.work_dir = str(tmp_path / "work_dir")
        # mmengine has one logger of a name and second, which writes where the first run did.
        cfg.experiment_name = tmp_path.name
        return cfg

    return make


def start_ranks(function: Callable, *args) -> None:
    """Run ``function(rank, *args)`` in two processes that have the environment of torchrun's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = torch.multiprocessing.start_processes(
        _as_rank, (port, function, args), nprocs=2, join=False, start_method="forkserver"
    )
    end = time.monotonic() + RANK_LIMIT
    while not ranks.join(timeout=5):
        if time.monotonic() > end:
            for rank in ranks.processes:
                rank.kill()
            raise TimeoutError(f"the ranks were not done in {RANK_LIMIT} s")


def _as_rank(rank: int, port: int, function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    function(rank, *args)
    torch.distributed.destroy_process_group()


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool in another folder than the repository's: ``run_tool("train.py", *args)``."""

    def run(tool: str, *args, check: bool = False, **kwargs) -> subprocess.CompletedProcess:
        command = [str(REPOSITORY / "tools" / tool), *map(str, args)]
        if tool.endswith(".py"):
            command.insert(0, sys.executable)
        env = {**os.environ, "PYTHON": sys.executable, **kwargs.pop("env", {})}
        result = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, **kwargs
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def call_tool(tmp_path, monkeypatch, capfd):
    """As ``run_tool``, but a Python tool, in this process, which saves seconds of imports."""
    # mmengine's loggers outlive the test, and so write to streams that are closed by then.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def call(tool: str, *args, check: bool = False) -> subprocess.CompletedProcess:
        path = REPOSITORY / "tools" / tool
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
        # Some tools set it, which is not for what a test starts later.
        monkeypatch.setenv("MMDET_EQL_REGISTER", "on")
        DetLocalVisualizer._instance_dict.clear()
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as exit_:
            status = exit_.code or 0
        finally:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # evaluate.py has itself ended by it
        result = subprocess.CompletedProcess(sys.argv, status, *capfd.readouterr())
        if check:
            assert status == 0, result.stdout + result.stderr
        return result

    return call


def as_arguments(options: dict) -> list[str]:
    """Options for the command line, ``key=value``."""
    return ["--cfg-options", *(f"{key}={value}".replace(" ", "") for key, value in options.items())]
