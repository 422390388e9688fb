"""Live view of runs: bars on a terminal, plain lines elsewhere."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from mmdet_eql.runs.execution import RunStatus

#: Seconds between two lines where the output is no terminal.
_LINE_INTERVAL = 30.0


def make_display() -> contextlib.AbstractContextManager["BarDisplay | LineDisplay"]:
    """Return the display that suits standard output."""
    console = Console()
    return BarDisplay(console) if console.is_terminal else contextlib.nullcontext(LineDisplay())


class LineDisplay:
    """A line on all runs, every half a minute and whenever one comes to its next stage."""

    def __init__(self) -> None:
        self._shown_at = -math.inf
        self._stages: list[str] = []
        self._ended: set[str] = set()

    def show(self, statuses: Sequence[RunStatus], seconds_left: float) -> None:
        """Show all runs; ``seconds_left`` until all end is NaN while unknown."""
        for line in _newly_ended(statuses, self._ended):
            print(f"  {line}", flush=True)
        # A run that validates often gets no line each time.
        stages = [s.stage.replace("evaluating", "training") for s in statuses]
        now = time.monotonic()
        running = [status for status in statuses if status.is_running]
        if (stages == self._stages and now < self._shown_at + _LINE_INTERVAL) or not running:
            return
        self._shown_at, self._stages = now, stages
        parts = [_counts(statuses)] if len(statuses) > 1 else []
        parts += [f"{status.name} {_step_of(status, ', ')}" for status in running]
        print("  " + "; ".join(filter(None, [*parts, time_left(seconds_left)])), flush=True)


class BarDisplay(Progress):
    """A bar per training and one for all; a line for each run that has ended."""

    def __init__(self, console: Console) -> None:
        # Refreshed by hand: processes are forked meanwhile, and a fork does not like threads.
        name, text = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
        bar = BarColumn(bar_width=20)
        super().__init__(name, bar, text, console=console, auto_refresh=False)
        self._bars: dict[str, TaskID] = {}
        self._ended: set[str] = set()

    def show(self, statuses: Sequence[RunStatus], seconds_left: float) -> None:
        """Show all runs; ``seconds_left`` until all end is NaN while unknown."""
        for line in _newly_ended(statuses, self._ended):
            self.console.print(escape(line), highlight=False)
        bars = {s.name: (s.done, s.total, _step_of(s, " ")) for s in statuses if s.is_running}
        if len(statuses) > 1:
            ended = sum(status.has_ended for status in statuses)
            text = ", ".join(filter(None, [_counts(statuses), time_left(seconds_left)]))
            bars["all runs"] = ended, len(statuses), text
        for name in set(self._bars) - set(bars):
            self.remove_task(self._bars.pop(name))
        for name, (done, total, text) in bars.items():
            if name not in self._bars:
                self._bars[name] = self.add_task(escape(name), text="")
            task, text = self._bars[name], escape(text)
            self.update(task, completed=done, total=total or None, text=text)
        self.refresh()


def time_left(seconds: float) -> str:
    """Format the time left, such as "about 67 min left"; empty while it is unknown."""
    if math.isnan(seconds) or seconds <= 0:
        return ""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} s left"
    if seconds < 3 * 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {round(seconds / 3600)} h left"


def _newly_ended(statuses: Sequence[RunStatus], known: set[str]) -> list[str]:
    """A line for each run that has ended and is not known yet."""
    ended = [status for status in statuses if status.has_ended and status.name not in known]
    known.update(status.name for status in ended)
    return [
        f"done {each.name}" if each.stage == "done" else f"FAILED {each.name}: {each.reason}"
        for each in ended
    ]


def _counts(statuses: Sequence[RunStatus]) -> str:
    found = Counter(status.stage for status in statuses)
    text = f"{found['done']} of {len(statuses)} done"
    return f"{text}, {found['failed']} failed" if found["failed"] else text


def _step_of(status: RunStatus, separator: str) -> str:
    stage = f"{status.stage} {status.done}/{status.total}" if status.total else status.stage
    if math.isnan(status.seconds_per_step):
        return stage
    unit = "it" if status.stage == "training" else "batch"
    return f"{stage}{separator}{status.seconds_per_step:.2f} s/{unit}"
