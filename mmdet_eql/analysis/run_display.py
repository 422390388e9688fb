"""Showing how far runs are: bars on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mmdet_eql.analysis.parallel_training import RunStatus

#: Seconds between two lines where the output is no terminal.
_LINE_INTERVAL = 30.0


def make_display() -> "BarDisplay | LineDisplay":
    """The display that suits standard output, as a context manager."""
    console = Console()
    return BarDisplay(console) if console.is_terminal else LineDisplay()


class BarDisplay:
    """One bar per run.

    Args:
        console (Console): The terminal.
    """

    def __init__(self, console: Console) -> None:
        # Refreshed by hand: processes are forked meanwhile, and a fork does not like threads.
        self._progress = Progress(
            TextColumn("{task.description:<10} {task.fields[stage]:<10}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}{task.fields[left]}"),
            console=console,
            auto_refresh=False,
        )
        self._tasks = {}

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

    def show(self, statuses: Sequence[RunStatus]) -> None:
        """See :class:`~mmdet_eql.analysis.parallel_training.Display`."""
        for status in statuses:
            fields = {
                "stage": status.stage,
                "speed": speed(status),
                "left": f", {left}" if (left := time_left([status])) else "",
                "completed": status.done,
                "total": status.total,
            }
            if status.name not in self._tasks:
                self._tasks[status.name] = self._progress.add_task(status.name, **fields)
            self._progress.update(self._tasks[status.name], **fields)
        self._progress.refresh()


class LineDisplay:
    """A line on all runs, every half a minute and whenever one comes to its next stage."""

    def __init__(self) -> None:
        self._told = -math.inf
        self._stages: list[str] = []

    def __enter__(self) -> "LineDisplay":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, statuses: Sequence[RunStatus]) -> None:
        """See :class:`~mmdet_eql.analysis.parallel_training.Display`."""
        stages = [status.stage for status in statuses]
        now = time.monotonic()
        if stages == self._stages and now < self._told + _LINE_INTERVAL:
            return
        self._told, self._stages = now, stages
        parts = [_describe(status) for status in statuses]
        if left := time_left(statuses):
            parts.append(left)
        print("  " + "; ".join(parts), flush=True)


def speed(status: RunStatus) -> str:
    """Seconds per iteration or batch, or nothing while they are unknown."""
    if math.isnan(status.seconds_per_step):
        return ""
    unit = "it" if status.stage == "training" else "batch"
    return f"{status.seconds_per_step:.2f} s/{unit}"


def time_left(statuses: Sequence[RunStatus]) -> str:
    """The time left until the last of some runs is done, or nothing while it is unknown."""
    if all(status.stage == "done" for status in statuses):
        return ""
    if any(math.isnan(status.seconds_left) for status in statuses):
        return ""
    longest = max(status.seconds_left for status in statuses)
    if longest < 90:
        return f"about {max(10, 10 * round(longest / 10))} s left"
    return f"about {round(longest / 60)} min left"


def _describe(status: RunStatus) -> str:
    if status.stage == "done":
        return f"{status.name} done"
    text = f"{status.name} {status.stage} {status.done}/{status.total}"
    return f"{text}, {speed(status)}" if speed(status) else text
