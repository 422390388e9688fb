"""One training as a process: how it is started, how far it is, how it ends.

What it prints goes to ``train.log`` in its work_dir. It has a process group of its own, and holds a
lock on the work_dir as long as one of its processes lives: a training whose parent was killed may
still be writing its last checkpoint, and the next one waits for that.
"""

import contextlib
import ctypes
import fcntl
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmdet_eql.engine.resume.interruption_hook import STOPPED_AND_SAVED
from mmdet_eql.utils.errors import UserError

LOG_NAME = "train.log"
#: How long a process may take to save and end when it is told to.
_GRACE_SECONDS = 20.0
#: Bytes at the end of a log that are looked at.
_TAIL = 1 << 16

#: A progress line of mmengine: loop, epoch (if it counts them), step, steps, seconds per step.
_PROGRESS = re.compile(
    rb"(?:Epoch|Iter)\((train|val|test)\)\s+(?:\[\s*(\d+)\])?\[\s*(\d+)/\s*(\d+)\]"
    rb"[^\n]*?\beta: [^\n]*?\btime: ([\d.]+)"
)
_ERROR = re.compile(r"^(?:\[rank\d+\]: *)?(?:error\b.*|[A-Za-z_][\w.]*(?:Error|Exception)\b.*)")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Progress:
    """How far a training is, by its log.

    Args:
        stage (str): ``"training"`` or ``"evaluating"``.
        done (int): Iterations, or evaluated batches.
        total (int): Of this stage.
        seconds_per_step (float): Mean over the last ones.
    """

    stage: str
    done: int
    total: int
    seconds_per_step: float


class Training:
    """A process that trains.

    Args:
        command (Sequence[str]): What to run.
        work_dir (Path): Folder for its log; it is made.
        environment (Mapping[str, str]): New values of environment variables.
        max_epochs (int, optional): Number of epochs; None if the training counts iterations.
    """

    def __init__(
        self,
        command: Sequence[str],
        work_dir: Path,
        environment: Mapping[str, str],
        max_epochs: int | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.work_dir = work_dir
        self.log = work_dir / LOG_NAME
        self.environment = {**os.environ, **environment}
        self.max_epochs = max_epochs
        self.process: subprocess.Popen | None = None
        self._log_offset = 0

    def start(self) -> bool:
        """Start it, unless an earlier process is still at work in the folder.

        Returns:
            bool: Whether it was started.

        Raises:
            UserError: If the folder cannot be written to.
        """
        try:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            with open(self.work_dir / ".lock", "w") as lock, open(self.log, "ab") as log:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return False
                log.write(f"$ {' '.join(self.command)}\n".encode(errors="surrogateescape"))
                log.flush()
                self._log_offset = log.tell()
                self.process = self._popen(log, lock)
        except OSError as error:
            raise UserError(
                f"{self.work_dir}: cannot be written to ({error.strerror}); give another work_dir."
            ) from None
        return True

    def _popen(self, log: IO[bytes], lock: IO[str]) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            # The lock is theirs from here on.
            pass_fds=[lock.fileno()],
            # Ctrl-C is for the parent, which then stops all in order.
            start_new_session=True,
            preexec_fn=_end_with_parent if _LIBC else None,
        )

    @property
    def exit_status(self) -> int | None:
        """Exit status, minus the number of the signal that killed it, or None while it runs."""
        return None if self.process is None else self.process.poll()

    def progress(self) -> Progress | None:
        """How far it is; None until it has said so."""
        with open(self.log, "rb") as log:
            log.seek(max(self._log_offset, os.fstat(log.fileno()).st_size - _TAIL))
            found = _PROGRESS.findall(log.read())
        if not found:
            return None
        loop, epoch, step, steps, seconds = found[-1]
        step, steps = int(step), int(steps)
        if loop == b"train" and epoch and self.max_epochs:
            step, steps = step + (int(epoch) - 1) * steps, self.max_epochs * steps
        stage = "training" if loop == b"train" else "evaluating"
        return Progress(stage, step, steps, float(seconds))

    def ask_to_end(self) -> None:
        """Tell it to save and end, without waiting."""
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

    def reason_of_failure(self) -> str:
        """Why it ended without success: how, and the last error of its log."""
        status = self.exit_status
        if status == STOPPED_AND_SAVED:
            return "was told to stop, and saved"
        if status < 0:
            hint = ", perhaps for lack of memory" if -status == signal.SIGKILL else ""
            how = f"was killed by signal {-status}{hint}"
        else:
            how = f"failed with exit status {status}"
        line = self._last_error()
        return f"{how}: {line}" if line else how

    def last_lines(self, number: int) -> list[str]:
        """The end of its log."""
        with open(self.log, "rb") as log:
            log.seek(max(self._log_offset, os.fstat(log.fileno()).st_size - _TAIL))
            return log.read().decode(errors="replace").splitlines()[-number:]

    def _last_error(self) -> str:
        lines = [line.rstrip() for line in self.last_lines(1000) if line.strip()]
        errors = [line for line in lines if _ERROR.match(line)]
        # torchrun's own error comes after that of the rank that failed.
        ours = [line for line in errors if "ChildFailedError" not in line]
        return (ours or errors or lines or [""])[-1].strip()


def _end_with_parent() -> None:
    # Not SIGKILL, after which the workers that load data would linger.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def seconds_of(progress: Progress | None) -> float:
    """Seconds until the stage is over, NaN while unknown."""
    if progress is None:
        return math.nan
    return (progress.total - progress.done) * progress.seconds_per_step
