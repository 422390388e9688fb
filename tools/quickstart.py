"""Train Mask R-CNN with and without the Equalization Loss on MiniLVIS, and compare them.

Everything runs on the CPU, the two models side by side. What is done is not done again, and what
was stopped goes on from its last checkpoint.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = {
    "baseline": "mask-rcnn_r18_fpn_sigmoid_1xb4_minilvis.py",
    "EQL": "mask-rcnn_r18_fpn_eql_1xb4_minilvis.py",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/quickstart.sh", description=__doc__)
    data = Path(os.environ.get("MMDET_EQL_DATA", REPOSITORY / "data")) / "minilvis"
    work_dir = REPOSITORY / "work_dirs" / "quickstart"
    parser.add_argument(
        "--data", type=Path, default=data, help="MiniLVIS, made if missing (default: %(default)s)"
    )
    parser.add_argument(
        "--work-dir", type=Path, default=work_dir, help="for all results (default: %(default)s)"
    )
    parser.add_argument(
        "--max-iters",
        type=int,
        help="training iterations of each model, for a shorter try (default: as in the configs)",
    )
    return parser.parse_args()


def stop(signum, frame) -> None:
    """Stop in order whichever way the end is asked for: Ctrl-C, kill, a closed terminal."""
    # Once is enough: what follows takes seconds, and is not to be broken off.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    # Not by print, which may be in the middle of a line. The terminal may be gone.
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopping; run the same command again to go on\n")
    raise KeyboardInterrupt


def main() -> None:
    args = parse_args()
    for signum in SIGNALS:
        # Ignored by nohup, and to stay so. A shell's background jobs ignore Ctrl-C alike, but a
        # SIGINT that was sent on purpose counts.
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, stop)
    try:
        # Late, so that --help needs no environment and Ctrl-C while importing is no traceback.
        # MMDetection prints which of its optional parts are not there.
        with contextlib.redirect_stdout(io.StringIO()):
            from mmdet_eql.runs.minilvis_comparison import Comparison, compare_on_minilvis
            from mmdet_eql.utils.errors import exit_on_user_error

        comparison = Comparison(
            configs={
                name: REPOSITORY / "configs/minilvis" / file for name, file in CONFIGS.items()
            },
            data=args.data.resolve(),
            work_dir=args.work_dir.resolve(),
            tools=REPOSITORY / "tools",
            max_iters=args.max_iters,
        )
        exit_on_user_error(lambda: compare_on_minilvis(comparison))()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
