"""Runs trained in their order, several at once, until all have ended.

A run that fails does not keep the others from running, except those that start from it. Every run
is started with ``--resume``, and so goes on from its last checkpoint if it has one. One is done
when its ``result.json`` is written.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmdet_eql.runs.planning import SweepRun, write_run_files
from mmdet_eql.runs.processes import Training, seconds_of
from mmdet_eql.runs.run_record import RESULT_NAME, RunRecord, record_run
from mmdet_eql.utils.errors import UserError

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class RunStatus:
    """Where a run is.

    Args:
        name (str): Its name.
        stage (str): ``"waiting"``, ``"starting"``, ``"training"``, ``"evaluating"``, ``"done"`` or
            ``"failed"``.
        done (int): Iterations or evaluated batches that are done.
        total (int): Iterations or batches of this stage, 0 while unknown.
        seconds_per_step (float): Mean over the last ones, or NaN while unknown.
        seconds_left (float): Estimate until the stage is over, or NaN while unknown.
        reason (str): Why it failed.
    """

    name: str
    stage: str
    done: int = 0
    total: int = 0
    seconds_per_step: float = math.nan
    seconds_left: float = math.nan
    reason: str = ""


class Display(Protocol):
    """Shows where runs are."""

    def show(self, statuses: Sequence[RunStatus], seconds_left: float) -> None:
        """Called about twice a second.

        Args:
            statuses (Sequence[RunStatus]): Of all runs.
            seconds_left (float): Estimate until all have ended, or NaN while unknown.
        """


@dataclass(frozen=True)
class Machine:
    """What runs are trained on, and by.

    Args:
        tools (Path): Folder of ``train.py`` and ``dist_train.sh``.
        jobs (int): Number of runs at once.
        devices (tuple[str, ...]): GPUs as in ``CUDA_VISIBLE_DEVICES``, shared out among the jobs;
            empty for the CPU.
        threads (int): Threads of each process.
    """

    tools: Path
    jobs: int = 1
    devices: tuple[str, ...] = ()
    threads: int = 1


def train_runs(
    runs: Sequence[SweepRun],
    machine: Machine,
    display: Display,
    delete_checkpoints: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    after_run: Callable[[RunRecord], None] = lambda record: None,
) -> list[RunStatus]:
    """Train what is not done; return when all have ended.

    If this function is left by an exception, KeyboardInterrupt included, all processes are stopped;
    on Linux they also end if this process is killed.

    Args:
        runs (Sequence[SweepRun]): The runs, first stages before what starts from them.
        machine (Machine): Where to train.
        display (Display): Shows the progress.
        delete_checkpoints (bool): Whether to delete the checkpoints of runs that are done, and of
            which none that starts from them is left to do.
        should_stop (Callable[[], bool]): Whether to end the processes; asked twice a second.
        after_run (Callable): Called with the record of each run that has become done.

    Returns:
        list[RunStatus]: Of each run: ``"done"`` or ``"failed"``.

    Raises:
        UserError: If there are too few GPUs for a run.
        KeyboardInterrupt: If it was told to stop.
    """
    most = max((run.training.gpus for run in runs), default=1)
    if machine.devices and most > len(machine.devices):
        raise UserError(f"--gpus is {most}, but {len(machine.devices)} are visible; give fewer.")
    schedule = _Schedule(runs, machine, delete_checkpoints, after_run)
    try:
        while True:
            if should_stop():
                raise KeyboardInterrupt
            schedule.advance()
            display.show(schedule.statuses(), schedule.seconds_left())
            if schedule.has_ended:
                return schedule.statuses()
            time.sleep(_POLL_SECONDS)
    finally:
        schedule.stop()


class _Schedule:
    def __init__(
        self,
        runs: Sequence[SweepRun],
        machine: Machine,
        delete_checkpoints: bool,
        after_run: Callable[[RunRecord], None],
    ) -> None:
        self.machine = machine
        self.delete_checkpoints = delete_checkpoints
        self.after_run = after_run
        self.runs = list(runs)
        self.stage = {
            run.name: "done" if (run.work_dir / RESULT_NAME).is_file() else "waiting"
            for run in runs
        }
        self.reason: dict[str, str] = {}
        self.active: dict[int, tuple[SweepRun, Training, float]] = {}
        self._seconds_of_done: list[float] = []
        self._delete_checkpoints()

    @property
    def has_ended(self) -> bool:
        return all(stage in ("done", "failed") for stage in self.stage.values())

    def advance(self) -> None:
        """Look which processes have ended, and start others."""
        for slot, (_, training, _) in list(self.active.items()):
            if training.process is None:
                training.start()
            elif training.exit_status is not None:
                self._finish(slot)
        for run in self.runs:
            if self.stage[run.name] == "waiting":
                self._start_if_possible(run)

    def _start_if_possible(self, run: SweepRun) -> None:
        first_stage = run.first_stage
        if first_stage is not None and self.stage[first_stage.name] == "failed":
            self._fail(run, f"starts from {first_stage.name}, which failed")
            return
        free = [slot for slot in range(self.machine.jobs) if slot not in self.active]
        if not free or (first_stage is not None and self.stage[first_stage.name] != "done"):
            return
        try:
            if first_stage is not None:
                run.cfg.load_from = str(final_checkpoint(first_stage.work_dir))
            write_run_files(run)
            training = Training(
                training_command(run, self.machine.tools),
                run.work_dir,
                self._environment(free[0], run.training.gpus),
                run.cfg.train_cfg.get("max_epochs"),
            )
            training.start()
        except UserError as error:
            self._fail(run, str(error))
            return
        self.stage[run.name] = "starting"
        self.active[free[0]] = (run, training, time.monotonic())

    def _environment(self, slot: int, gpus: int) -> dict[str, str]:
        devices = self.machine.devices
        chosen = [devices[(slot * gpus + i) % len(devices)] for i in range(gpus)] if devices else []
        threads = str(self.machine.threads)
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(chosen),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "PYTHON": sys.executable,
        }

    def _finish(self, slot: int) -> None:
        run, training, began = self.active.pop(slot)
        training.end()
        if training.exit_status != 0:
            self._fail(run, training.reason_of_failure())
            return
        try:
            record = record_run(run.work_dir)
        except UserError as error:
            self._fail(run, str(error))
            return
        self.stage[run.name] = "done"
        self._seconds_of_done.append(time.monotonic() - began)
        self.after_run(record)
        self._delete_checkpoints()

    def _fail(self, run: SweepRun, reason: str) -> None:
        self.stage[run.name] = "failed"
        self.reason[run.name] = reason

    def _delete_checkpoints(self) -> None:
        if not self.delete_checkpoints:
            return
        needed = {
            run.first_stage.name
            for run in self.runs
            if run.first_stage is not None and self.stage[run.name] != "done"
        }
        for run in self.runs:
            if self.stage[run.name] == "done" and run.name not in needed:
                for path in run.work_dir.glob("*.pth"):
                    path.unlink(missing_ok=True)

    def statuses(self) -> list[RunStatus]:
        """Where each run is, in their order."""
        progress = {
            run.name: training.progress()
            for run, training, _ in self.active.values()
            if training.process is not None
        }
        statuses = []
        for run in self.runs:
            stage, known = self.stage[run.name], progress.get(run.name)
            if known is None:
                status = RunStatus(run.name, stage, reason=self.reason.get(run.name, ""))
            else:
                status = RunStatus(
                    run.name,
                    known.stage,
                    known.done,
                    known.total,
                    known.seconds_per_step,
                    seconds_of(known),
                )
            statuses.append(status)
        return statuses

    def seconds_left(self) -> float:
        """Until all have ended; runs that wait take as long as the others have on average."""
        now = time.monotonic()
        left, whole = [], list(self._seconds_of_done)
        for _, training, began in self.active.values():
            progress = training.progress() if training.process is not None else None
            if progress is None or progress.stage != "training":
                # Evaluations come on top; how many is not known.
                left.append(seconds_of(progress) if progress else math.nan)
                continue
            left.append(seconds_of(progress))
            # Its own speed, since a resumed run was not begun here.
            whole.append(max(progress.total * progress.seconds_per_step, now - began))
        waiting = sum(stage == "waiting" for stage in self.stage.values())
        if any(math.isnan(seconds) for seconds in left) or (waiting and not whole):
            return math.nan
        ahead = waiting * sum(whole) / len(whole) if waiting else 0.0
        return max([*left, (sum(left) + ahead) / self.machine.jobs])

    def stop(self) -> None:
        """End what still runs."""
        for _, training, _ in self.active.values():
            training.ask_to_end()
        for _, training, _ in self.active.values():
            training.end()


def training_command(run: SweepRun, tools: Path) -> list[str]:
    """The command that trains a run, or goes on with it."""
    options = [*("--work-dir", str(run.work_dir), "--resume"), *run.training.flags]
    if run.training.gpus > 1:
        script, gpus = tools / "dist_train.sh", str(run.training.gpus)
        return ["bash", str(script), str(run.config), gpus, *options]
    return [sys.executable, "-u", str(tools / "train.py"), str(run.config), *options]


def find_final_checkpoint(work_dir: Path) -> Path | None:
    """The last complete checkpoint of a run, or None if there is none.

    ``last_checkpoint`` is written after the checkpoint that it names. The name counts rather than
    the folder, which may have been moved.
    """
    try:
        named = Path((work_dir / "last_checkpoint").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    paths = (work_dir / named.name, named)
    return next((path for path in paths if path.is_file()), None)


def final_checkpoint(work_dir: Path) -> Path:
    """The last checkpoint of a run that is done.

    Raises:
        UserError: If there is none.
    """
    path = find_final_checkpoint(work_dir)
    if path is None:
        raise UserError(
            f"{work_dir}: its last checkpoint is gone, and is needed; remove "
            f"{work_dir / RESULT_NAME} to train it again."
        )
    return path


def visible_devices() -> tuple[str, ...]:
    """GPUs as ``CUDA_VISIBLE_DEVICES`` calls them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return ()
    if named is not None:
        return tuple(device.strip() for device in named.split(",") if device.strip())
    return tuple(map(str, range(torch.cuda.device_count())))
