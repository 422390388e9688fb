"""A whole sweep that is killed twice, on real trainings of a second."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from mmdet_eql.engine.launch import build_runner, read_config
from mmdet_eql.runs.execution import Machine
from mmdet_eql.runs.planning import TrainingOptions
from mmdet_eql.runs.records import load_record, make_record
from mmdet_eql.runs.sweep import run_sweep
from mmdet_eql.runs.sweep_file import read_entries
from mmdet_eql.utils.errors import UserError
from tests.classification.conftest import crops, crops_config, tiny_options
from tests.conftest import REPOSITORY

__all__ = ["crops"]  # the fixture
GAMMA = "model.head.loss_cls.gamma"
NAMES = ["crt_seed=0", "softmax_seed=0"]


@pytest.fixture
def command(crops, tmp_path) -> list[str]:
    options = tiny_options(crops, epochs=3)
    del options["randomness.seed"]
    options |= {"train_cfg.val_interval": 1, "val_evaluator.classwise": True}
    seql = str(crops_config("seql"))
    spec = {
        "options": options,
        "seeds": [0],
        "runs": [
            {"config": str(crops_config("softmax")), "name": "softmax"},
            {"config": seql, "name": "seql", "options": {GAMMA: "much"}},
            {"config": str(crops_config("crt")), "name": "crt", "load_from": "softmax"},
        ],
    }
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(spec))
    script = str(REPOSITORY / "tools" / "sweep.py")
    work_dir = str(tmp_path / "work_dir")
    return [sys.executable, script, str(path), "--work-dir", work_dir, "--jobs", "2"]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(process: subprocess.Popen, pattern: str, work_dir: Path) -> None:
    # Only for one: runs may come one after the other, and only their last checkpoints are kept.
    deadline = time.monotonic() + 250
    while not list(work_dir.glob(pattern)):
        assert process.poll() is None, "\n".join(process.communicate())
        assert time.monotonic() < deadline, process.kill()
        time.sleep(0.02)


def test_a_sweep_that_is_killed_twice_ends_as_one_that_is_not(command, tmp_path, call_tool, capfd):
    work_dir = tmp_path / "work_dir"
    first = start(command)
    wait_for(first, "*/epoch_*.pth", work_dir)
    with pytest.raises(UserError, match="another process is at work in this folder"):
        same_sweep(command)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    over = threading.Event()

    def press_ctrl_c():
        while not over.wait(0.02):
            if list(work_dir.glob("*/result.json")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    ctrl_c = threading.Thread(target=press_ctrl_c)
    ctrl_c.start()
    third = call_tool("sweep.py", *command[2:])
    over.set()
    ctrl_c.join()
    assert third.returncode == 130, third.stdout + third.stderr
    assert "give the same command again to go on" in third.stderr
    assert "Traceback" not in third.stderr

    last = call_tool("sweep.py", *command[2:])
    assert last.returncode == 1, last.stdout + last.stderr  # for the one that is broken
    assert "invalid, left out: seql_seed=0" in third.stdout
    assert "2 of 2 runs are done" in last.stdout
    assert sorted(path.parent.name for path in work_dir.glob("*/result.json")) == NAMES
    for name in NAMES:
        check_against_unbroken(work_dir / name, tmp_path / "unbroken" / name)

    # Once more: nothing is left to do.
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*") if path.is_file()}
    assert not same_sweep(command)  # for the one that is broken
    assert "2 runs in" in (out := capfd.readouterr().out)
    assert "2 are done already" in out
    after = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {work_dir / ".lock"}


def same_sweep(command: list[str]) -> bool:
    """Run the sweep of a command line in this process."""
    _, script, file, _, work_dir, _, jobs = command
    machine = Machine(Path(script).parent, int(jobs))
    return run_sweep(read_entries(file), Path(work_dir), machine, TrainingOptions())[1]


def check_against_unbroken(broken: Path, unbroken: Path) -> None:
    """Train a run without a sweep and without a break, and compare weights and figures."""
    cfg = read_config(str(broken.parent / "configs" / f"{broken.name}.py"))
    cfg.work_dir, cfg.launcher = str(unbroken), "none"
    # A visualizer, which writes the log, is known to the process by its name.
    cfg.visualizer.name = unbroken.name
    build_runner(cfg).train()
    shutil.copy(broken / "sweep_run.json", unbroken)
    weights = [
        torch.load(folder / "epoch_3.pth", weights_only=False)["state_dict"]
        for folder in (broken, unbroken)
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    recorded, expected = load_record(broken), make_record(unbroken)
    assert recorded == expected
    assert len(recorded.learning_curve) == 3
    assert len(recorded.category_figures["accuracy"]) == 6
    assert list(recorded.image_count.values()) == [24, 15, 10, 6, 4, 3]
