"""Train many runs: a grid or a list of config options, configs and seeds.

    python tools/sweep.py sweep.yaml --jobs 2
    python tools/sweep.py --config A.py B.py --grid model.head.loss_cls.gamma=0.5,0.9 --seeds 0,1,2

The same command goes on where it stopped: what is done is left alone, what was begun is resumed.
docs/sweeps.md describes the file and the results.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from pathlib import Path

from mmengine.config import DictAction

# MMDetection prints which of its optional parts are not there.
with contextlib.redirect_stdout(io.StringIO()):
    from mmdet_eql.runs.command import SweepCommand, run_sweep
    from mmdet_eql.runs.planning import TrainingOptions
    from mmdet_eql.runs.run_record import record_run
    from mmdet_eql.utils.errors import UserError, exit_on_user_error

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, help="the same in all runs"
    )
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/ and the file's name")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs, or CPU processes, of each run (default: 1)"
    )
    for flag, text in (
        ("--amp", "automatic mixed precision"),
        ("--auto-scale-lr", "scale the learning rate with the batch size"),
        ("--deterministic", "the same weights each time"),
    ):
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument(
        "--delete-checkpoints", action="store_true", help="of runs that are done and not needed"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would run, and end")
    parser.add_argument("--slurm", metavar="PARTITION", help="write job scripts instead")
    parser.add_argument("--cpus-per-task", type=int, default=5, help="for --slurm")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="for --slurm")
    parser.add_argument(
        "--record", type=Path, metavar="WORK_DIR", help="write the result.json of a run, and end"
    )
    args = parser.parse_args()
    for option in ("jobs", "gpus", "cpus_per_task", "gpus_per_node"):
        if getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is {getattr(args, option)}; give a number from 1 on.")
    if args.record is None and (args.file is None) == (args.config is None):
        raise UserError("give either a sweep file or --config; see --help.")
    return args


class Interruption:
    """Notes that the end was asked for, by Ctrl-C or kill.

    Nothing is raised where the signal finds the program: libraries that catch all exceptions would
    take it for their own.
    """

    def __init__(self) -> None:
        self.requested = False
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: object) -> None:
        # Once is enough: ending the runs in order takes seconds.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        # Not by print, which may be in the middle of a line.
        os.write(2, b"\nstopping; give the same command again to go on\n")
        self.requested = True


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.record is not None:
        record_run(args.record)
        return
    interruption = Interruption()
    flags = ("--amp", "--auto-scale-lr", "--deterministic")
    command = SweepCommand(
        file=args.file,
        configs=args.config or [],
        grid=args.grid,
        seeds=args.seeds,
        options=args.cfg_options,
        work_dir=args.work_dir,
        tools=TOOLS,
        jobs=args.jobs,
        training=TrainingOptions(
            args.gpus,
            tuple(flag for flag in flags if getattr(args, flag[2:].replace("-", "_"))),
        ),
        delete_checkpoints=args.delete_checkpoints,
        dry_run=args.dry_run,
        partition=args.slurm,
        cpus_per_task=args.cpus_per_task,
        gpus_per_node=args.gpus_per_node,
    )
    sys.exit(0 if run_sweep(command, should_stop=lambda: interruption.requested) else 1)


if __name__ == "__main__":
    main()
