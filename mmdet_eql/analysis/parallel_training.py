"""Several runs trained at once on one machine's CPU, watched and stopped together.

Each run is a process of ``tools/train.py`` with one thread, in a process group of its own. What it
prints goes to ``train.log`` in its work_dir. A run that was stopped goes on from its last
checkpoint; one that was stopped while it evaluated is evaluated by ``tools/test.py``.
"""

import contextlib
import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmdet_eql.analysis.run_results import find_progress, find_result
from mmdet_eql.errors import UserError

LOG_NAME = "train.log"
#: Lines of a failed run's log that are shown.
_LINES_SHOWN = 20
_POLL_SECONDS = 0.5
#: How long a process may take to end by itself when it is told to.
_GRACE_SECONDS = 5.0
#: An evaluated batch takes about as long as this many training iterations of the same batch size;
#: it serves the estimate alone, until the first batches were evaluated.
_ITERATIONS_PER_EVALUATED_BATCH = 1.0

_CHECKPOINT = re.compile(r"iter_(\d+)\.pth")
_EVALUATED = re.compile(rb"\((?:val|test)\)\s+\[\s*(\d+)/(\d+)\]\s+eta:.*?\stime: ([\d.]+)")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class PlannedRun:
    """A run to train and evaluate.

    Args:
        name (str): Its name in messages.
        config (Path): Its config: iteration-based, evaluated after the last iteration.
        work_dir (Path): Folder for logs and checkpoints.
        max_iters (int): Number of training iterations, as the config has it.
        num_val_batches (int): Number of batches of its evaluation, for the estimate of time.
    """

    name: str
    config: Path
    work_dir: Path
    max_iters: int
    num_val_batches: int


@dataclass(frozen=True)
class RunStatus:
    """Where a run is.

    Args:
        name (str): Its name.
        stage (str): ``"starting"``, ``"training"``, ``"evaluating"`` or ``"done"``.
        done (int): Iterations or evaluated batches that are done.
        total (int): Iterations or batches of this stage.
        seconds_per_step (float): Mean over the last ones, or NaN while unknown.
        seconds_left (float): Estimate until the whole run is done, or NaN while unknown.
    """

    name: str
    stage: str
    done: int
    total: int
    seconds_per_step: float = math.nan
    seconds_left: float = math.nan


class Display(Protocol):
    """Shows where runs are."""

    def show(self, statuses: Sequence[RunStatus]) -> None:
        """Called about twice a second."""


def run_in_parallel(runs: Sequence[PlannedRun], tools: Path, display: Display) -> None:
    """Train and evaluate runs at once, each from where it stopped; return when all are done.

    If this function is left by an exception, KeyboardInterrupt included, all processes are stopped;
    on Linux they also end if this process is killed.

    Args:
        runs (Sequence[PlannedRun]): The runs. Those that are done are left alone.
        tools (Path): Folder of ``train.py`` and ``test.py``.
        display (Display): Shows the progress.

    Raises:
        UserError: If a run fails. The end of its log is shown before, on standard error.
    """
    active = [_ActiveRun(run, tools) for run in runs]
    try:
        for run in active:
            run.start_next_stage()
        while not all(run.is_done for run in active):
            display.show([run.status() for run in active])
            time.sleep(_POLL_SECONDS)
            for run in active:
                run.advance()
        display.show([run.status() for run in active])
    finally:
        for run in active:
            run.ask_to_end()
        for run in active:
            run.end()


def last_checkpoint(work_dir: Path) -> tuple[Path, int] | None:
    """The last complete checkpoint of an iteration-based run.

    ``last_checkpoint`` is written after the checkpoint that it names, so a checkpoint that was
    broken off is not named yet. The name counts rather than the folder, which may have been moved.

    Args:
        work_dir (Path): Folder of the run.

    Returns:
        tuple[Path, int] | None: Its path and its iteration; None if there is none.
    """
    try:
        named = Path((work_dir / "last_checkpoint").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    match = _CHECKPOINT.fullmatch(named.name)
    path = work_dir / named.name
    return (path, int(match[1])) if match and path.is_file() else None


class _ActiveRun:
    """A planned run and the process that it is in the hands of."""

    def __init__(self, run: PlannedRun, tools: Path) -> None:
        self.run = run
        self.tools = tools
        self.log = run.work_dir / LOG_NAME
        self.process: subprocess.Popen | None = None
        self.is_done = False
        self._log_offset = 0
        self._first_iteration = 0
        self._last_start: str | None = None
        self._stage: str | None = None

    def start_next_stage(self) -> None:
        """Start what is to be done next, if anything is."""
        if find_result(self.run.work_dir) is not None:
            self.is_done = True
            return
        checkpoint = last_checkpoint(self.run.work_dir)
        trained = checkpoint is not None and checkpoint[1] >= self.run.max_iters
        stage = "evaluating" if trained else "training"
        if stage == self._stage:
            # The process said that all went well, but what it was to do is not there.
            self._fail("ended without a result")
        self._stage = stage
        self._first_iteration = checkpoint[1] if checkpoint else 0
        if trained:
            arguments = ["test.py", self.run.config, checkpoint[0]]
        else:
            arguments = ["train.py", self.run.config]
            if checkpoint:
                arguments += ["--resume", checkpoint[0]]
        self._start([*arguments, "--work-dir", self.run.work_dir])

    def advance(self) -> None:
        """Look whether the process has ended, and go on.

        Raises:
            UserError: If it failed.
        """
        if self.is_done or self.process.poll() is None:
            return
        code = self.process.returncode
        if code < 0:
            hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
            self._fail(f"was killed by signal {-code}{hint}")
        if code > 0:
            self._fail(f"failed with exit status {code}")
        self.start_next_stage()

    def status(self) -> RunStatus:
        """Where the run is."""
        run = self.run
        if self.is_done:
            return RunStatus(run.name, "done", run.max_iters, run.max_iters, seconds_left=0.0)
        evaluated = self._evaluated()
        if evaluated is not None:
            done, total, seconds = evaluated
            return RunStatus(run.name, "evaluating", done, total, seconds, (total - done) * seconds)
        if self._stage == "evaluating":
            return RunStatus(run.name, "evaluating", 0, run.num_val_batches)
        progress = find_progress(run.work_dir) if self._has_new_start() else None
        if progress is None:
            return RunStatus(run.name, "starting", self._first_iteration, run.max_iters)
        steps = run.max_iters - progress.iteration
        steps += run.num_val_batches * _ITERATIONS_PER_EVALUATED_BATCH
        seconds = progress.seconds_per_iteration
        return RunStatus(
            run.name, "training", progress.iteration, run.max_iters, seconds, steps * seconds
        )

    def ask_to_end(self) -> None:
        """Tell the process to end, without waiting."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def end(self) -> None:
        """See to it that the process and its workers have ended."""
        if self.process is None:
            return
        try:
            self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        # Workers that load data outlive a killed trainer for some seconds.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _start(self, arguments: Sequence[str | Path]) -> None:
        script, *options = map(str, arguments)
        command = [sys.executable, "-u", str(self.tools / script), *options]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # On the CPU also where there is a GPU.
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._last_start = _newest_start(self.run.work_dir)
        self.run.work_dir.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            self._log_offset = log.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C is for the parent, which then stops all in order.
                start_new_session=True,
                preexec_fn=_end_with_parent if _LIBC else None,
            )

    def _has_new_start(self) -> bool:
        return _newest_start(self.run.work_dir) != self._last_start

    def _evaluated(self) -> tuple[int, int, float] | None:
        """Batches evaluated by this process, all batches, and seconds per batch."""
        with open(self.log, "rb") as log:
            log.seek(max(self._log_offset, os.fstat(log.fileno()).st_size - (1 << 16)))
            found = _EVALUATED.findall(log.read())
        return (int(found[-1][0]), int(found[-1][1]), float(found[-1][2])) if found else None

    def _fail(self, how: str) -> None:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"\nThe end of {self.log}:", *lines[-_LINES_SHOWN:], sep="\n  ", file=sys.stderr)
        raise UserError(
            f"{self.log}: the run '{self.run.name}' {how}; its log, shown above, tells why. "
            "Running this again goes on from the last checkpoints."
        )


def _end_with_parent() -> None:
    # Not SIGKILL, after which the workers that load data would linger.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _newest_start(work_dir: Path) -> str | None:
    try:
        return max(path.parent.name for path in work_dir.glob("*_*/vis_data"))
    except ValueError:
        return None
