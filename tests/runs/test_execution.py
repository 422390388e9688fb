"""Runs trained several at once: started, resumed, failed, stopped.

The processes are real; what they run is a small script that leaves the same files as mmengine.
"""

import json
import math
import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_eql.runs.execution import (
    Machine,
    RunStatus,
    final_checkpoint,
    train_runs,
    training_command,
)
from mmdet_eql.runs.planning import SweepRun, TrainingOptions, digest_of
from mmdet_eql.runs.progress import LineDisplay
from mmdet_eql.runs.records import load_record
from mmdet_eql.runs.sweep_file import Entry
from mmdet_eql.utils.errors import UserError

SCRIPT = """
import json, os, shutil, sys, time
from pathlib import Path

config, options = sys.argv[1], sys.argv[2:]
work_dir = Path(options[options.index("--work-dir") + 1])
settings = {}
exec(Path(config).read_text(), settings)
behaviour = settings["behaviour"]
shutil.copy(config, work_dir)
start = work_dir / f"20250101_{len(list(work_dir.glob('2025*'))):06d}"
(start / "vis_data").mkdir(parents=True)
(work_dir / f"pid_{start.name}").write_text(str(os.getpid()))
(work_dir / "devices").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
(work_dir / "load_from").write_text(settings.get("load_from", ""))
assert "--resume" in options
scalars = open(start / "vis_data" / "scalars.json", "a")

last = work_dir / "last_checkpoint"
iteration = int((work_dir / Path(last.read_text()).name).read_text()) if last.exists() else 0
print("went on from", iteration)
while iteration < 6:
    iteration += 1
    time.sleep(0.05)
    print(f"x - INFO - Iter(train) [ {iteration}/6]  lr: 1e-2  eta: 0:00:01  time: 0.0500  "
          "data_time: 0.0001  loss: 1.0", flush=True)
    if "slow" in behaviour:
        time.sleep(60)
    if "fail" in behaviour and iteration == 3:
        print("Traceback (most recent call last):\\n  ...\\nValueError: something is wrong\\nbye",
              flush=True)
        sys.exit(3)
    if iteration % 2 == 0:
        path = work_dir / f"iter_{iteration}.pth"
        path.write_text(str(iteration))
        last.write_text(f"/moved/since/iter_{iteration}.pth")
if "killed" in behaviour:
    os.kill(os.getpid(), 9)
for batch in (1, 2):
    print(f"Iter(val) [{batch}/2]    eta: 0:00:01  time: 0.1234  data_time: 0.1", flush=True)
if "no result" not in behaviour:
    print(json.dumps({"lvis/bbox_AP": 0.5, "step": 6}), file=scalars, flush=True)
"""


class Recorder:
    """A display that remembers, and can act on what it is shown."""

    def __init__(self, act=lambda statuses: None):
        self.shown: list[list[RunStatus]] = []
        self.left: list[float] = []
        self.act = act

    def show(self, statuses, seconds_left):
        self.shown.append(list(statuses))
        self.left.append(seconds_left)
        self.act(statuses)


@pytest.fixture
def tools(tmp_path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def plan(tmp_path):
    def make(name: str, behaviour: str = "", **options) -> SweepRun:
        folder = tmp_path / "work dir"
        return SweepRun(
            name=name,
            label=name,
            entry=Entry("somewhere/config.py", name, {}),
            cfg=Config(dict(behaviour=behaviour, train_cfg=dict(max_iters=6))),
            identity=digest_of(name),
            experiment=digest_of(name),
            work_dir=folder / name,
            config=folder / "configs" / f"{name}.py",
            **{"training": TrainingOptions(), **options},
        )

    return make


def train(runs, tools, display=None, jobs=2, **options) -> dict[str, RunStatus]:
    machine = Machine(tools, jobs=jobs, devices=options.pop("devices", ()))
    statuses = train_runs(runs, machine, (display or Recorder()).show, **options)
    return {status.name: status for status in statuses}


def pid(run: SweepRun, name: str = "20250101_000000") -> int:
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


def log_of(run: SweepRun) -> str:
    return (run.work_dir / "train.log").read_text()


def test_runs_are_trained_and_recorded(tools, plan):
    runs = [plan("a"), plan("b"), plan("c")]
    display = Recorder()
    statuses = train(runs, tools, display)
    assert {status.stage for status in statuses.values()} == {"done"}
    assert [status.stage for status in display.shown[0]] == ["starting", "starting", "waiting"]
    assert display.left[-1] == 0.0
    for run in runs:
        record = load_record(run.work_dir)
        assert record.figures == {"bbox": {"AP": 0.5}}
        assert (record.config, record.learning_curve) == ("config", [(6, {"bbox": {"AP": 0.5}})])
        assert record.identity == run.identity


def test_progress_is_read_from_the_log(tools, plan):
    run = plan("a", "slow")

    def look(statuses):
        if statuses[0].stage == "training":
            raise KeyboardInterrupt

    display = Recorder(look)
    with pytest.raises(KeyboardInterrupt):
        train([run, plan("b", "slow")], tools, display, jobs=1)
    status = display.shown[-1][0]
    assert (status.done, status.total, status.seconds_per_step) == (1, 6, 0.05)
    assert math.isclose(status.seconds_left, 0.25)
    # The other one takes as long as this one has taken, or will.
    assert display.left[-1] >= 0.25 + 0.3


def test_what_is_done_is_left_alone(tools, plan):
    run = plan("a")
    train([run], tools)
    before = log_of(run)
    (tools / "train.py").unlink()
    display = Recorder()
    train([run], tools, display)
    assert log_of(run) == before
    assert [status.stage for status in display.shown[0]] == ["done"]


def test_a_failure_is_told_and_ends_nothing_else(tools, plan):
    runs = [
        plan("failing", "fail"),
        plan("killed", "killed"),
        plan("other"),
        plan("void", "no result"),
    ]
    statuses = train(runs, tools)
    assert statuses["failing"].reason == (
        "failed with exit status 3: ValueError: something is wrong"
    )
    assert statuses["killed"].reason.startswith(
        "was killed by signal 9, perhaps for lack of memory"
    )
    assert "holds no metrics of a finished evaluation" in statuses["void"].reason
    assert statuses["other"].stage == "done"


def test_a_failed_run_goes_on_from_its_last_checkpoint(tools, plan):
    run = plan("a", "fail")
    assert train([run], tools)["a"].stage == "failed"
    assert final_checkpoint(run.work_dir) == run.work_dir / "iter_2.pth"
    run.cfg.behaviour = ""
    assert train([run], tools)["a"].stage == "done"
    assert "went on from 2" in log_of(run)


def test_a_second_stage_waits_for_the_first(tools, plan):
    first = plan("first")
    runs = [first, plan("second", first_stage=first)]
    assert train(runs, tools)["second"].stage == "done"
    checkpoint = str(first.work_dir / "iter_6.pth")
    assert (runs[1].work_dir / "load_from").read_text() == checkpoint


def test_a_second_stage_of_a_failed_first_is_not_trained(tools, plan):
    first = plan("first", "fail")
    statuses = train([first, plan("second", first_stage=first), plan("third")], tools)
    assert statuses["second"].reason == "starts from first, which failed"
    assert statuses["third"].stage == "done"


def test_checkpoints_are_deleted_once_nothing_needs_them(tools, plan):
    options = dict(training=TrainingOptions(delete_checkpoints=True))
    first, failing = plan("first", **options), plan("failing", "fail", **options)
    runs = [first, plan("second", first_stage=first, **options), failing]
    train(runs, tools, jobs=1)
    assert not list(first.work_dir.glob("*.pth"))
    assert not list(runs[1].work_dir.glob("*.pth"))
    assert list(failing.work_dir.glob("*.pth"))
    late = plan("late", first_stage=first)
    assert "its last checkpoint is gone" in train([first, late], tools)["late"].reason


def test_gpus_are_shared_out(tools, plan):
    runs = [plan(name) for name in "abc"]
    train(runs, tools, jobs=3, devices=("4", "5"))
    assert [(run.work_dir / "devices").read_text() for run in runs] == ["4", "5", "4"]
    train([plan("d")], tools)
    assert (runs[0].work_dir.parent / "d" / "devices").read_text() == ""
    with pytest.raises(UserError, match="--gpus is 3, but 2 are visible"):
        train([plan("e", training=TrainingOptions(gpus=3))], tools, devices=("4", "5"))


def test_told_to_stop(tools, plan):
    run = plan("a", "slow")
    with pytest.raises(KeyboardInterrupt):
        train([run], tools, should_stop=lambda: (run.work_dir / "pid_20250101_000000").exists())
    assert not is_alive(pid(run))


def test_several_ranks_are_started_by_the_launcher(tools, plan):
    run = plan("a", training=TrainingOptions(gpus=4, flags=("--amp",)))
    assert training_command(run, tools) == [
        "bash",
        str(tools / "dist_train.sh"),
        *(str(run.config), "4", "--work-dir", str(run.work_dir), "--resume", "--amp"),
    ]


def test_an_interrupt_stops_all_processes(tools, plan):
    runs = [plan("a", "slow"), plan("b", "slow")]

    def interrupt(statuses):
        for run in runs:
            pid(run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(runs, tools, Recorder(interrupt))
    assert not any(is_alive(pid(run)) for run in runs)


def sweep_of_one(run: SweepRun, tools: Path) -> BaseProcess:
    """A process, in a group of its own, that trains a slow run."""

    def sweep():
        os.setsid()
        train_runs([run], Machine(tools), LineDisplay().show)

    process = multiprocessing.get_context("fork").Process(target=sweep)
    process.start()
    return process


def test_trainings_are_killed_with_the_process_group(tools, plan):
    run = plan("a", "slow")
    sweep = sweep_of_one(run, tools)
    training = pid(run)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.join()
    assert ends(training)


def test_ctrl_c_is_for_the_sweep_alone(tools, plan):
    run = plan("a", "slow")
    sweep = sweep_of_one(run, tools)
    training = pid(run)
    os.kill(training, signal.SIGINT)
    time.sleep(0.3)
    assert is_alive(training)
    os.killpg(sweep.pid, signal.SIGINT)
    sweep.join()
    assert not is_alive(training)


def test_a_process_that_is_left_is_waited_for(tools, plan):
    # As a training whose sweep alone was killed.
    run = plan("a", "slow")
    sweep = sweep_of_one(run, tools)
    training = pid(run)
    sweep.kill()
    sweep.join()
    run.cfg.behaviour = ""

    def look(statuses):
        if len(display.shown) == 2:
            assert statuses[0].stage == "starting"
            assert is_alive(training)
            assert log_of(run).count("$ ") == 1
            os.kill(training, signal.SIGKILL)

    display = Recorder(look)
    assert train([run], tools, display)["a"].stage == "done"
    assert log_of(run).count("$ ") == 2


@pytest.mark.parametrize(
    ("named", "existing", "expected"),
    [
        ("/a/b/iter_40.pth\n", ["iter_40.pth", "iter_60.pth"], "iter_40.pth"),
        ("", ["iter_40.pth"], None),
        ("/a/b/iter_40.pth", [], None),
        ("/a/b/epoch_1.pth", ["epoch_1.pth"], "epoch_1.pth"),
        (None, ["iter_40.pth"], None),
    ],
)
def test_the_last_checkpoint_is_the_one_named(tmp_path, named, existing, expected):
    for name in existing:
        (tmp_path / name).touch()
    if named is not None:
        (tmp_path / "last_checkpoint").write_text(named)
    if expected is not None:
        assert final_checkpoint(tmp_path) == tmp_path / expected
    else:
        with pytest.raises(UserError, match="its last checkpoint is gone"):
            final_checkpoint(tmp_path)
    assert os.listdir(tmp_path) or named is None


def test_a_result_of_another_kind_is_one_sentence(tmp_path):
    for text in ("", "{", "[1]", json.dumps({"name": "a"}), json.dumps({"unknown": 1})):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match="is no result of a run"):
            load_record(tmp_path / "a.json")
