"""Showing how far runs are: bars on a terminal, plain lines elsewhere."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from mmdet_eql.runs.scheduler import RunStatus

#: Seconds between two lines where the output is no terminal.
_LINE_INTERVAL = 30.0
_RUNNING = ("starting", "training", "evaluating")


def make_display() -> "BarDisplay | LineDisplay":
    """The display that suits standard output, as a context manager."""
    console = Console()
    return BarDisplay(console) if console.is_terminal else LineDisplay()


class BarDisplay:
    """A bar per run that is at work, and one for all; a line for each that has ended.

    Args:
        console (Console): The terminal.
    """

    def __init__(self, console: Console) -> None:
        # Refreshed by hand: processes are forked meanwhile, and a fork does not like threads.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[told]}"),
            console=console,
            auto_refresh=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        self._all: TaskID | None = None

    def __enter__(self) -> "BarDisplay":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, statuses: Sequence[RunStatus], seconds_left: float) -> None:
        """See :class:`~mmdet_eql.runs.scheduler.Display`."""
        for line in newly_ended(statuses, self._ended):
            self._progress.console.print(escape(line), highlight=False)
        running = {status.name: status for status in statuses if status.stage in _RUNNING}
        for name in set(self._tasks) - set(running):
            self._progress.remove_task(self._tasks.pop(name))
        for name, status in running.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(escape(name), told="")
            told = " ".join(part for part in (_stage(status), speed(status)) if part)
            self._update(self._tasks[name], status.done, status.total, told)
        if len(statuses) > 1:
            if self._all is None:
                self._all = self._progress.add_task("all runs", told="")
            ended = sum(status.stage in ("done", "failed") for status in statuses)
            told = ", ".join(part for part in (counts(statuses), time_left(seconds_left)) if part)
            self._update(self._all, ended, len(statuses), told)
        self._progress.refresh()

    def _update(self, task: TaskID, done: int, total: int, told: str) -> None:
        self._progress.update(task, completed=done, total=total or None, told=escape(told))


class LineDisplay:
    """A line on all runs, every half a minute and whenever one comes to its next stage."""

    def __init__(self) -> None:
        self._told = -math.inf
        self._stages: list[str] = []
        self._ended: set[str] = set()

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, statuses: Sequence[RunStatus], seconds_left: float) -> None:
        """See :class:`~mmdet_eql.runs.scheduler.Display`."""
        for line in newly_ended(statuses, self._ended):
            print(f"  {line}", flush=True)
        # A run that validates often is not told of each time.
        stages = ["at work" if s.stage == "evaluating" else s.stage for s in statuses]
        stages = [stage.replace("training", "at work") for stage in stages]
        now = time.monotonic()
        running = [status for status in statuses if status.stage in _RUNNING]
        if (stages == self._stages and now < self._told + _LINE_INTERVAL) or not running:
            return
        self._told, self._stages = now, stages
        parts = [counts(statuses)] if len(statuses) > 1 else []
        parts += [_describe(status) for status in running]
        if left := time_left(seconds_left):
            parts.append(left)
        print("  " + "; ".join(parts), flush=True)


def newly_ended(statuses: Iterable[RunStatus], told: set[str]) -> list[str]:
    """A line for each run that has ended and is not in ``told``, which is added to."""
    lines = []
    for status in statuses:
        if status.stage in ("done", "failed") and status.name not in told:
            told.add(status.name)
            failed = f"FAILED {status.name}: {status.reason}"
            lines.append(f"done {status.name}" if status.stage == "done" else failed)
    return lines


def counts(statuses: Sequence[RunStatus]) -> str:
    """How many runs are done, and how many have failed."""
    found = Counter(status.stage for status in statuses)
    text = f"{found['done']} of {len(statuses)} done"
    return f"{text}, {found['failed']} failed" if found["failed"] else text


def speed(status: RunStatus) -> str:
    """Seconds per iteration or batch, or nothing while they are unknown."""
    if math.isnan(status.seconds_per_step):
        return ""
    unit = "it" if status.stage == "training" else "batch"
    return f"{status.seconds_per_step:.2f} s/{unit}"


def time_left(seconds: float) -> str:
    """The time left, or nothing while it is unknown.

    Example:
        >>> time_left(4000)
        'about 67 min left'
    """
    if math.isnan(seconds) or seconds <= 0:
        return ""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} s left"
    if seconds < 3 * 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {round(seconds / 3600)} h left"


def _stage(status: RunStatus) -> str:
    return f"{status.stage} {status.done}/{status.total}" if status.total else status.stage


def _describe(status: RunStatus) -> str:
    text = f"{status.name} {_stage(status)}"
    return f"{text}, {speed(status)}" if speed(status) else text
