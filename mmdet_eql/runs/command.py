"""A sweep from the file to the last run."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet_eql.runs.display import make_display
from mmdet_eql.runs.planning import Plan, TrainingOptions, plan_runs
from mmdet_eql.runs.run_record import RESULT_NAME
from mmdet_eql.runs.scheduler import Machine, train_runs, visible_devices
from mmdet_eql.runs.slurm import write_jobs
from mmdet_eql.runs.sweep_file import entries_of, parse_grid, parse_values, read_sweep_file
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import hold_folder


@dataclass(frozen=True)
class SweepCommand:
    """What ``tools/sweep.py`` was told.

    Args:
        file (str, optional): Sweep file.
        configs (Sequence[str]): Config files, without a sweep file.
        grid (Sequence[str]): ``key=value,value``, in addition to the grid of the file.
        seeds (str, optional): ``"0,1,2"``, in place of those of the file.
        options (Mapping[str, Any]): Options of every run.
        work_dir (Path, optional): Folder of the sweep.
        tools (Path): Folder of the launchers.
        jobs (int): Number of runs at once.
        training (TrainingOptions): How each is trained.
        delete_checkpoints (bool): Whether to delete those of runs that are done.
        dry_run (bool): Whether to show the plan alone.
        partition (str, optional): Slurm partition to write job scripts for.
        cpus_per_task (int): CPU cores of each process of a job.
        gpus_per_node (int): Largest number of GPUs of one node.
    """

    file: str | None
    configs: Sequence[str]
    grid: Sequence[str]
    seeds: str | None
    options: Mapping[str, Any]
    work_dir: Path | None
    tools: Path
    jobs: int = 1
    training: TrainingOptions = field(default_factory=TrainingOptions)
    delete_checkpoints: bool = False
    dry_run: bool = False
    partition: str | None = None
    cpus_per_task: int = 5
    gpus_per_node: int = 8


def run_sweep(
    command: SweepCommand,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Plan the runs, tell what is broken, and train the others.

    Args:
        command (SweepCommand): What to do.
        say (Callable[[str], None]): Prints a line.
        should_stop (Callable[[], bool]): Whether to end the runs; asked twice a second.

    Returns:
        bool: Whether all runs that were asked for are done (or written out, or could be trained).

    Raises:
        UserError: If the sweep itself is wrong, or another process is at work in its folder.
        KeyboardInterrupt: If it was told to stop.
    """
    spec, source = _spec_of(command)
    entries = entries_of(spec, source)
    work_dir = command.work_dir or Path("work_dirs") / Path(command.file or "sweep").stem
    if command.dry_run:
        plan = plan_runs(entries, work_dir, command.training)
        _tell(plan, work_dir, say)
        for run in plan.runs:
            say(f"  {'done' if _is_done(run) else 'to do'}  {run.name}")
        return not plan.broken
    with hold_folder(work_dir, "give another --work-dir"):
        plan = plan_runs(entries, work_dir, command.training)
        _tell(plan, work_dir, say)
        if command.partition is not None:
            submit, number = write_jobs(
                plan.runs,
                work_dir,
                command.tools,
                command.partition,
                command.cpus_per_task,
                command.gpus_per_node,
            )
            say(f"{number} jobs are written; submit them by: bash {submit}")
            return not plan.broken
        machine = Machine(command.tools, command.jobs, visible_devices(), _threads(command))
        with make_display() as display:
            statuses = train_runs(
                plan.runs, machine, display, command.delete_checkpoints, should_stop
            )
    failed = [status for status in statuses if status.stage == "failed"]
    say(f"{len(statuses) - len(failed)} of {len(statuses)} runs are done in {work_dir}")
    for status in failed:
        say(f"  failed: {status.name}: {status.reason}")
        say(f"          {work_dir / status.name}/train.log; the same command tries it again")
    for broken in plan.broken:
        say(f"  broken: {broken.name}: {broken.reason}")
    return not failed and not plan.broken


def _spec_of(command: SweepCommand) -> tuple[dict, str]:
    if command.file is not None:
        spec, source = read_sweep_file(command.file), command.file
    else:
        spec, source = {"config": list(command.configs)}, "command line"
    for key, given in (("options", command.options), ("grid", parse_grid(command.grid))):
        if given:
            known = spec.get(key) or {}
            if not isinstance(known, Mapping):
                raise UserError(f"{source}: {key} is {known!r}; give a mapping.")
            spec[key] = {**known, **given}
    if command.seeds is not None:
        spec["seeds"] = parse_values(command.seeds)
    return spec, source


def _tell(plan: Plan, work_dir: Path, say: Callable[[str], None]) -> None:
    done = sum(map(_is_done, plan.runs))
    parts = [f"{len(plan.runs)} runs in {work_dir}"]
    if done:
        parts.append(f"{done} are done already")
    if plan.repeated:
        parts.append(f"{plan.repeated} entries ask for one of them once more")
    say(", ".join(parts))
    for broken in plan.broken:
        say(f"  broken, left out: {broken.name}: {broken.reason}")


def _is_done(run: Any) -> bool:
    return (run.work_dir / RESULT_NAME).is_file()


def _threads(command: SweepCommand) -> int:
    """What the user wants, or the cores shared out among all processes."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    return max(1, (os.cpu_count() or 1) // (command.jobs * command.training.gpus))
