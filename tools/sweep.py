"""Train many runs: a grid or a list of config options, configs and seeds.

    python tools/sweep.py sweep.yaml --jobs 2
    python tools/sweep.py --config A.py B.py --grid model.head.loss_cls.gamma=0.5,0.9 --seeds 0,1,2

The same command goes on where it stopped: what is done is left alone, what was begun is resumed.
docs/sweeps.md describes the file and the results.
"""

import argparse
import os
import sys
from pathlib import Path

from arguments import add_cfg_options, positive, run_tool, tool_parser

TOOLS = Path(__file__).resolve().parent
FLAGS = {
    "--amp": "automatic mixed precision",
    "--auto-scale-lr": "scale the learning rate with the batch size",
    "--deterministic": "the same weights each time",
}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("file", nargs="?", help="sweep file (.yaml, .json or .py)")
    parser.add_argument("--config", nargs="+", metavar="CONFIG", help="configs, without a file")
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="every combination of these values; in addition to those of the file",
    )
    parser.add_argument("--seeds", metavar="SEED,SEED", help="in place of those of the file")
    add_cfg_options(parser, "the same in all runs")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/ and the file's name")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at once (default: 1)")
    parser.add_argument(
        "--gpus", type=positive, default=1, help="GPUs, or CPU processes, of each run (default: 1)"
    )
    for flag, text in FLAGS.items():
        parser.add_argument(
            flag, dest="flags", action="append_const", const=flag, default=[], help=text
        )
    parser.add_argument(
        "--delete-checkpoints", action="store_true", help="of runs that are done and not needed"
    )
    parser.add_argument("--keep-detections", action="store_true", help="write them to the runs")
    parser.add_argument("--dry-run", action="store_true", help="show what would run, and end")
    parser.add_argument("--slurm", metavar="PARTITION", help="write job scripts instead")
    parser.add_argument("--cpus-per-task", type=positive, default=5, help="for --slurm; default: 5")
    parser.add_argument("--gpus-per-node", type=positive, default=8, help="for --slurm; default: 8")
    parser.add_argument(
        "--record", type=Path, metavar="WORK_DIR", help="write the result.json of a run, and end"
    )
    args = parser.parse_args(arguments)
    if args.record is None and (args.file is None) == (args.config is None):
        parser.error("give either a sweep file or --config; see --help.")
    return args


def threads_per_process(processes: int) -> int:
    """OMP_NUM_THREADS, or the cores shared out among all processes."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    return max(1, (os.cpu_count() or 1) // processes)


def sweep(args: argparse.Namespace) -> list | None:
    """Do what the arguments say; return the runs if they were trained here."""
    from mmdet_eql.runs.execution import Machine, visible_devices
    from mmdet_eql.runs.planning import TrainingOptions, plan_runs
    from mmdet_eql.runs.records import record_run
    from mmdet_eql.runs.slurm import write_jobs
    from mmdet_eql.runs.sweep import run_sweep
    from mmdet_eql.runs.sweep_file import read_entries
    from mmdet_eql.utils.files import hold_folder

    if args.record is not None:
        record_run(args.record)
        return None
    entries = read_entries(args.file, args.config or [], args.cfg_options, args.grid, args.seeds)
    work_dir = args.work_dir or Path("work_dirs") / Path(args.file or "sweep").stem
    flags = tuple(flag for flag in FLAGS if flag in args.flags)
    training = TrainingOptions(args.gpus, flags, args.delete_checkpoints, args.keep_detections)
    if args.dry_run:
        plan = plan_runs(entries, work_dir, training)
        print(plan.describe())
        for run in plan.runs:
            print(f"  {'done' if run.is_done else 'to do'}  {run.name}")
        finished = not plan.invalid
    elif args.slurm is not None:
        with hold_folder(work_dir, "give another --work-dir"):
            plan = plan_runs(entries, work_dir, training)
            print(plan.describe())
            submit, number = write_jobs(
                plan.runs, work_dir, TOOLS, args.slurm, args.cpus_per_task, args.gpus_per_node
            )
            print(f"{number} jobs are written; submit them by: bash {submit}")
        finished = not plan.invalid
    else:
        threads = threads_per_process(args.jobs * args.gpus)
        machine = Machine(TOOLS, args.jobs, visible_devices(), threads)
        plan, finished = run_sweep(entries, work_dir, machine, training)
    if not finished:
        sys.exit(1)
    return None if args.dry_run or args.slurm is not None else plan.runs


if __name__ == "__main__":
    run_tool(sweep, parse_args())
