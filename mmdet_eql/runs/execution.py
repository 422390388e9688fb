"""Trainings as processes: several at once, on GPUs of their own, resumed, stopped, recorded.

A run that fails ends no other, except those that start from it. Each is started with ``--resume``.
A run is done when its ``result.json`` is written. A training prints to ``train.log`` in its
work_dir, which is locked while one of its processes lives: where the sweep alone was killed, its
trainings go on, and the next sweep waits for them.
"""

import contextlib
import fcntl
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdet_eql.engine.resume.interruption_hook import STOPPED_AND_SAVED
from mmdet_eql.runs.planning import SweepRun, write_run_files
from mmdet_eql.runs.records import RESULT_NAME, record_run
from mmdet_eql.utils.errors import UserError

LOG_NAME = "train.log"
#: Boxes that a run found in its last evaluation.
DETECTIONS_NAME = "val.bbox.json"
_POLL_SECONDS = 0.5
#: How long a process may take to save and end.
_GRACE_SECONDS = 20.0
#: Bytes at the end of a log that are read.
_TAIL = 1 << 16
#: A progress line of mmengine: loop, epoch (if it counts them), step, steps, seconds per step.
_PROGRESS = re.compile(
    rb"(?:Epoch|Iter)\((train|val|test)\)\s+(?:\[\s*(\d+)\])?\[\s*(\d+)/\s*(\d+)\]"
    rb"[^\n]*?\beta: [^\n]*?\btime: ([\d.]+)"
)
_ERROR = re.compile(r"(?:\[rank\d+\]: *)?(?:error\b.*|[A-Za-z_][\w.]*(?:Error|Exception)\b.*)")
#: Ctrl-C reaches the whole process group, but is for the sweep, which then ends all in order.
_WITHOUT_INTERRUPT = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


@dataclass(frozen=True)
class RunStatus:
    """State of a run: ``done`` of ``total`` (0 if unknown) iterations or batches of its stage.

    ``stage`` is "waiting", "starting", "training", "evaluating", "done" or "failed"; ``reason`` is
    why it failed; ``seconds_per_step`` is the mean over the last steps, NaN while unknown.
    """

    name: str
    stage: str
    done: int = 0
    total: int = 0
    seconds_per_step: float = math.nan
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it is done or has failed."""
        return self.stage in ("done", "failed")

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return not self.has_ended and self.stage != "waiting"

    @property
    def seconds_left(self) -> float:
        """Estimate until the stage is over, or NaN while unknown."""
        return (self.total - self.done) * self.seconds_per_step


@dataclass(frozen=True)
class Machine:
    """Where runs are trained: ``jobs`` at once, each process with a number of ``threads``.

    ``tools`` is the folder of ``train.py`` and ``dist_train.sh``; ``devices`` are GPUs as in
    ``CUDA_VISIBLE_DEVICES``, empty for the CPU.
    """

    tools: Path
    jobs: int = 1
    devices: tuple[str, ...] = ()
    threads: int = 1


def train_runs(
    runs: Sequence[SweepRun],
    machine: Machine,
    show: Callable[[Sequence[RunStatus], float], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> list[RunStatus]:
    """Train the runs that are not done, first stages first; return when all are done or failed.

    On any exception, KeyboardInterrupt included, all trainings are made to save and end.

    Args:
        show (Callable): Shows all runs, twice a second, and the seconds until all end, NaN while
            unknown.
        should_stop (Callable[[], bool]): Whether to end; called twice a second.

    Raises:
        UserError: If there are too few GPUs for a run.
        KeyboardInterrupt: If ``should_stop`` returned True.
    """
    most = max((run.training.gpus for run in runs), default=1)
    if machine.devices and most > len(machine.devices):
        raise UserError(f"--gpus is {most}, but {len(machine.devices)} are visible; give fewer.")
    schedule = _Schedule(runs, machine)
    try:
        while not should_stop():
            schedule.advance()
            statuses = schedule.statuses()
            show(statuses, schedule.seconds_left(statuses))
            if all(status.has_ended for status in statuses):
                return statuses
            time.sleep(_POLL_SECONDS)
        raise KeyboardInterrupt
    finally:
        schedule.stop()


class _Schedule:
    def __init__(self, runs: Sequence[SweepRun], machine: Machine) -> None:
        self.runs = runs
        self.machine = machine
        self.ended = {run.name: RunStatus(run.name, "done") for run in runs if run.is_done}
        self.active: dict[int, _Training] = {}
        self._durations: list[float] = []
        self._delete_checkpoints()

    def advance(self) -> None:
        """Record the trainings that have ended, and start others."""
        for slot, training in list(self.active.items()):
            if training.process is None:
                training.start()
            elif training.process.poll() is not None:
                del self.active[slot]
                self._finish(training)
        active = {training.run.name for training in self.active.values()}
        for run in self.runs:
            if run.name not in self.ended and run.name not in active:
                self._start_if_possible(run)

    @contextlib.contextmanager
    def _ended_by_errors(self, run: SweepRun) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.ended[run.name] = RunStatus(run.name, "failed", reason=str(error))

    def _finish(self, training: "_Training") -> None:
        run = training.run
        with self._ended_by_errors(run):
            training.check_success()
            record_run(run.work_dir)
            self.ended[run.name] = RunStatus(run.name, "done")
            self._durations.append(time.monotonic() - training.began)
            self._delete_checkpoints()

    def _start_if_possible(self, run: SweepRun) -> None:
        first = run.first_stage
        free = [slot for slot in range(self.machine.jobs) if slot not in self.active]
        if not free or (first is not None and first.name not in self.ended):
            return
        with self._ended_by_errors(run):
            if first is not None:
                if self.ended[first.name].stage == "failed":
                    raise UserError(f"starts from {first.name}, which failed")
                run.cfg.load_from = str(final_checkpoint(first.work_dir))
            if run.training.keep_detections:
                run.cfg.val_evaluator.outfile_prefix = str(run.work_dir / "val")
            write_run_files(run)
            training = _Training(run, self.machine, free[0])
            training.start()
            self.active[free[0]] = training

    def _delete_checkpoints(self) -> None:
        needed = {run.first_stage.name for run in self.runs if run.first_stage and not run.is_done}
        for run in self.runs:
            unused = run.is_done and run.name not in needed
            if unused and run.training.delete_checkpoints:
                for path in run.work_dir.glob("*.pth"):
                    path.unlink(missing_ok=True)

    def statuses(self) -> list[RunStatus]:
        known = {each.run.name: each.status() for each in self.active.values()} | self.ended
        return [known.get(run.name, RunStatus(run.name, "waiting")) for run in self.runs]

    def seconds_left(self, statuses: Sequence[RunStatus]) -> float:
        """Estimate until all have ended: runs that wait take as long as the others on average."""
        waiting = sum(status.stage == "waiting" for status in statuses)
        left = [status.seconds_left for status in statuses if status.is_running]
        # Evaluations come on top; how many is not known.
        training = [each for each in statuses if each.stage == "training"]
        whole = self._durations + [each.total * each.seconds_per_step for each in training]
        if any(map(math.isnan, left)) or (waiting and not whole):
            return math.nan
        ahead = waiting * sum(whole) / len(whole) if waiting else 0.0
        return max([*left, (sum(left) + ahead) / self.machine.jobs])

    def stop(self) -> None:
        """Make the trainings save and end, and wait until they have."""
        processes = [each.process for each in self.active.values() if each.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
            process.kill()
            process.wait()


class _Training:
    """The process that trains a run."""

    def __init__(self, run: SweepRun, machine: Machine, slot: int) -> None:
        self.run = run
        self.command = training_command(run, machine.tools)
        self.process: subprocess.Popen | None = None
        self.began = time.monotonic()
        self.log = run.work_dir / LOG_NAME
        self._log_offset = 0
        gpus, devices = run.training.gpus, machine.devices
        chosen = [devices[(slot * gpus + i) % len(devices)] for i in range(gpus)] if devices else []
        self._environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": ",".join(chosen),
            "OMP_NUM_THREADS": str(machine.threads),
            "MKL_NUM_THREADS": str(machine.threads),
            "PYTHON": sys.executable,
        }

    def start(self) -> None:
        """Start the process, unless an earlier one is still at work in the folder."""
        try:
            with open(self.log, "ab") as log:
                try:
                    # Held by all processes that print to it.
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                log.write(f"$ {' '.join(self.command)}\n".encode(errors="surrogateescape"))
                log.flush()
                self._log_offset = log.tell()
                self.process = subprocess.Popen(
                    [*_WITHOUT_INTERRUPT, *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                )
        except OSError as error:
            raise UserError(
                f"{self.log}: cannot be written to ({error.strerror}); give another work_dir."
            ) from None

    def status(self) -> RunStatus:
        """Its progress, by its log."""
        found = _PROGRESS.findall(self._log_tail())
        if not found or self.process is None:
            return RunStatus(self.run.name, "starting")
        loop, epoch, step, steps, seconds = found[-1]
        step, steps = int(step), int(steps)
        max_epochs = self.run.cfg.train_cfg.get("max_epochs")
        if loop == b"train" and epoch and max_epochs:
            step, steps = step + (int(epoch) - 1) * steps, max_epochs * steps
        stage = "training" if loop == b"train" else "evaluating"
        return RunStatus(self.run.name, stage, step, steps, float(seconds))

    def check_success(self) -> None:
        """Raise a UserError with the exit status and the last error of the log if it failed."""
        status = self.process.returncode
        if status == 0:
            return
        if status == STOPPED_AND_SAVED:
            raise UserError("was told to stop, and saved")
        how = f"failed with exit status {status}"
        if status < 0:
            hint = ", perhaps for lack of memory" if -status == signal.SIGKILL else ""
            how = f"was killed by signal {-status}{hint}"
        text = self._log_tail().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR.match(line)]
        # torchrun's own error comes after that of the rank that failed.
        ours = [line for line in errors if "ChildFailedError" not in line]
        found = ours or errors or lines
        raise UserError(f"{how}: {found[-1]}" if found else how)

    def _log_tail(self) -> bytes:
        with open(self.log, "rb") as log:
            log.seek(max(self._log_offset, os.fstat(log.fileno()).st_size - _TAIL))
            return log.read()


def training_command(run: SweepRun, tools: Path) -> list[str]:
    """Return the command that trains a run, or resumes it."""
    options = ["--work-dir", str(run.work_dir), "--resume", *run.training.flags]
    if run.training.gpus > 1:
        script, gpus = tools / "dist_train.sh", str(run.training.gpus)
        return ["bash", str(script), str(run.config), gpus, *options]
    return [sys.executable, "-u", str(tools / "train.py"), str(run.config), *options]


def final_checkpoint(work_dir: Path) -> Path:
    """Return the last complete checkpoint of a run, whose folder may have been moved.

    Raises a UserError if there is none.
    """
    with contextlib.suppress(OSError):
        named = Path((work_dir / "last_checkpoint").read_text(encoding="utf-8").strip())
        for path in (work_dir / named.name, named):
            if path.is_file():
                return path
    raise UserError(
        f"{work_dir}: its last checkpoint is gone, and is needed; remove "
        f"{work_dir / RESULT_NAME} to train it again."
    )


def visible_devices() -> tuple[str, ...]:
    """Return the GPUs as ``CUDA_VISIBLE_DEVICES`` calls them."""
    import torch

    if not torch.cuda.is_available():
        return ()
    numbers = ",".join(map(str, range(torch.cuda.device_count())))
    named = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")
    return tuple(device.strip() for device in named if device.strip())
