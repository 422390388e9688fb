"""Runs trained at once: started, resumed, evaluated, stopped.

The processes are real; what they run is a small script that leaves the same files as mmengine.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdet_eql.analysis.parallel_training import (
    PlannedRun,
    RunStatus,
    last_checkpoint,
    run_in_parallel,
)
from mmdet_eql.analysis.run_results import find_result
from mmdet_eql.errors import UserError

# The config is a number: the iteration at which the run fails, or 0.
SCRIPT = """
import json, os, subprocess, sys, time
from pathlib import Path

config, options = sys.argv[1], sys.argv[2:]
work_dir = Path(options[options.index("--work-dir") + 1])
behaviour = Path(config).read_text()
start = work_dir / f"20250101_{len(list(work_dir.glob('2025*'))):06d}"
(start / "vis_data").mkdir(parents=True)
(work_dir / f"pid_{start.name}").write_text(str(os.getpid()))
scalars = open(start / "vis_data" / "scalars.json", "a")

def log(**record):
    print(json.dumps(record), file=scalars, flush=True)

def evaluate():
    for batch in (1, 2):
        print(f"Iter(val) [{batch}/2]    eta: 0:00:01  time: 0.1234  data_time: 0.1", flush=True)
    if "no result" not in behaviour:
        log(**{"lvis/bbox_AP": 0.5})

if Path(sys.argv[0]).name == "test.py":
    evaluate()
    sys.exit()

iteration = 0
if "--resume" in options:
    iteration = int(Path(options[options.index("--resume") + 1]).read_text())
if "helper" in behaviour:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (work_dir / "pid_helper").write_text(str(helper.pid))
while iteration < 6:
    iteration += 1
    time.sleep(0.05)
    log(loss=1.0, step=iteration, time=0.05)
    if "slow" in behaviour:
        time.sleep(60)
    if "fail" in behaviour and iteration == 3:
        print("something is wrong", flush=True)
        sys.exit(3)
    if iteration % 2 == 0:
        path = work_dir / f"iter_{iteration}.pth"
        path.write_text(str(iteration))
        (work_dir / "last_checkpoint").write_text(f"/moved/since/iter_{iteration}.pth")
if "killed" in behaviour:
    os.kill(os.getpid(), 9)
evaluate()
"""


class Recorder:
    """A display that remembers, and can act on what it is shown."""

    def __init__(self, act=lambda statuses: None):
        self.shown: list[list[RunStatus]] = []
        self.act = act

    def show(self, statuses):
        self.shown.append(list(statuses))
        self.act(statuses)


@pytest.fixture
def tools(tmp_path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("train.py", "test.py"):
        (folder / name).write_text(SCRIPT)
    return folder


@pytest.fixture
def plan(tmp_path):
    def make(name: str, behaviour: str = "") -> PlannedRun:
        config = tmp_path / f"{name}.py"
        config.write_text(behaviour)
        return PlannedRun(name, config, tmp_path / "work dir" / name, 6, 2)

    return make


def pid(run: PlannedRun, name: str = "20250101_000000") -> int:
    path = run.work_dir / f"pid_{name}"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, "the process did not start"
        time.sleep(0.02)
    return int(path.read_text())


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def ends(process: int, seconds: float = 10) -> bool:
    """Whether a process ends soon; one that is no child of ours takes a moment to go."""
    deadline = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(process)


def commands(run: PlannedRun) -> list[str]:
    lines = (run.work_dir / "train.log").read_text().splitlines()
    return [line for line in lines if line.startswith("$ ")]


def test_runs_are_trained_and_evaluated_at_once(tools, plan):
    runs = [plan("a"), plan("b")]
    display = Recorder()
    run_in_parallel(runs, tools, display)
    assert all(find_result(run.work_dir).figures["bbox"]["AP"] == 0.5 for run in runs)
    assert [status.stage for status in display.shown[0]] == ["starting", "starting"]
    assert [status.stage for status in display.shown[-1]] == ["done", "done"]
    assert [status.seconds_left for status in display.shown[-1]] == [0.0, 0.0]
    assert len(commands(runs[0])) == 1


def test_what_is_done_is_left_alone(tools, plan):
    run = plan("a")
    run_in_parallel([run], tools, Recorder())
    before = (run.work_dir / "train.log").read_bytes()
    (tools / "train.py").unlink()
    (tools / "test.py").unlink()
    display = Recorder()
    run_in_parallel([run], tools, display)
    assert (run.work_dir / "train.log").read_bytes() == before
    assert [status.stage for status in display.shown[0]] == ["done"]


def test_a_stopped_run_goes_on_from_its_last_checkpoint(tools, plan):
    run = plan("a", "fail")
    with pytest.raises(UserError):
        run_in_parallel([run], tools, Recorder())
    assert last_checkpoint(run.work_dir) == (run.work_dir / "iter_2.pth", 2)
    run.config.write_text("")
    display = Recorder()
    run_in_parallel([run], tools, display)
    assert display.shown[0] == [RunStatus("a", "starting", 2, 6)]
    assert f"--resume {run.work_dir / 'iter_2.pth'}" in commands(run)[1]


def test_a_trained_run_is_only_evaluated(tools, plan):
    run = plan("a", "killed")
    with pytest.raises(UserError, match="was killed by signal 9, perhaps for lack of memory"):
        run_in_parallel([run], tools, Recorder())
    assert find_result(run.work_dir) is None
    run_in_parallel([run], tools, Recorder())
    assert find_result(run.work_dir).figures["bbox"]["AP"] == 0.5
    assert "test.py" in commands(run)[1]
    assert str(run.work_dir / "iter_6.pth") in commands(run)[1]


def test_a_failure_shows_the_log_and_stops_the_others(tools, plan, capfd):
    failing, other = plan("failing", "fail"), plan("other", "slow helper")
    with pytest.raises(UserError, match="the run 'failing' failed with exit status 3") as error:
        run_in_parallel([failing, other], tools, Recorder(lambda _: pid(other, "helper")))
    assert str(failing.work_dir / "train.log") in str(error.value)
    assert "something is wrong" in capfd.readouterr().err
    assert not is_alive(pid(other))
    assert ends(pid(other, "helper"))


def test_a_run_without_a_result_does_not_go_round_in_circles(tools, plan):
    run = plan("a", "no result")
    with pytest.raises(UserError, match="ended without a result"):
        run_in_parallel([run], tools, Recorder())
    assert len(commands(run)) == 2


def test_an_interrupt_stops_all_processes(tools, plan):
    runs = [plan("a", "slow"), plan("b", "slow helper")]

    def interrupt(statuses):
        for run in runs:
            pid(run)
        pid(runs[1], "helper")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_parallel(runs, tools, Recorder(interrupt))
    assert not any(is_alive(pid(run)) for run in runs)
    assert ends(pid(runs[1], "helper"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_processes_end_with_their_parent(tools, plan, tmp_path):
    run = plan("a", "slow")
    program = f"""
from pathlib import Path
from mmdet_eql.analysis.parallel_training import PlannedRun, run_in_parallel
run = PlannedRun("a", Path({str(run.config)!r}), Path({str(run.work_dir)!r}), 6, 2)
run_in_parallel([run], Path({str(tools)!r}), type("", (), {{"show": lambda *_: None}})())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    child = pid(run)
    parent.kill()
    parent.wait()
    assert ends(child)


@pytest.mark.parametrize(
    ("named", "existing", "expected"),
    [
        ("/a/b/iter_40.pth\n", ["iter_40.pth", "iter_60.pth"], 40),
        ("", ["iter_40.pth"], None),
        ("/a/b/iter_40.pth", [], None),
        ("/a/b/epoch_1.pth", ["epoch_1.pth"], None),
        (None, ["iter_40.pth"], None),
    ],
)
def test_the_last_checkpoint_is_the_one_named(tmp_path, named, existing, expected):
    for name in existing:
        (tmp_path / name).touch()
    if named is not None:
        (tmp_path / "last_checkpoint").write_text(named)
    found = last_checkpoint(tmp_path)
    assert found == (expected and (tmp_path / f"iter_{expected}.pth", expected))
    assert os.listdir(tmp_path) or named is None
