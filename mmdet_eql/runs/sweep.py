"""A sweep from its entries to the last run, as ``tools/sweep.py`` and the quickstart do it."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmdet_eql.runs.execution import LOG_NAME, Machine, train_runs
from mmdet_eql.runs.planning import Plan, TrainingOptions, plan_runs
from mmdet_eql.runs.progress import make_display
from mmdet_eql.runs.sweep_file import Entry
from mmdet_eql.utils.files import hold_folder


def run_sweep(
    entries: Sequence[Entry], work_dir: Path, machine: Machine, training: TrainingOptions
) -> tuple[Plan, bool]:
    """Plan the runs, report invalid entries, and train the others.

    Returns:
        tuple[Plan, bool]: The runs, and whether all of the entries are done.

    Raises:
        UserError: If another process is at work in the folder, or there are too few GPUs.
        KeyboardInterrupt: On Ctrl-C, SIGTERM or SIGHUP; the trainings have saved and ended.
    """
    with hold_folder(work_dir, "give another --work-dir"):
        plan = plan_runs(entries, work_dir, training)
        print(plan.describe())
        with stop_requested() as should_stop, make_display() as display:
            statuses = train_runs(plan.runs, machine, display.show, should_stop)
    failed = [status for status in statuses if status.stage == "failed"]
    print(f"{len(statuses) - len(failed)} of {len(statuses)} runs are done in {work_dir}")
    for status in failed:
        print(f"  failed: {status.name}: {status.reason}")
        print(f"          {work_dir / status.name / LOG_NAME}; the same command tries it again")
    for invalid in plan.invalid:
        print(f"  invalid: {invalid.name}: {invalid.reason}")
    return plan, not failed and not plan.invalid


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C, SIGTERM or SIGHUP has come in the block.

    Nothing is raised where the signal arrives: a library that catches all exceptions would drop it.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if not received:
            # Not by print, which may be in the middle of a line. The terminal may be gone.
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping; give the same command again to go on\n")
        received.append(number)

    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
