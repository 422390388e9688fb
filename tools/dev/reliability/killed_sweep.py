"""Kill a sweep of six detectors twice, and compare its results with those of an unbroken one.

Trains Mask R-CNN with sigmoid and EQL, three seeds each, on a tiny MiniLVIS by tools/sweep.py: once
through, and once killed at a random moment by SIGKILL of its process group and at another by
SIGINT. A seventh entry is broken. Weights, figures and learning curves must be equal, bit for bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from soak import DATA, REPOSITORY, differences, small_options

from mmdet_eql.minilvis import make_minilvis
from mmdet_eql.utils.errors import UserError, exit_on_user_error

CONFIGS = REPOSITORY / "configs" / "minilvis"
LAMBDA = "model.roi_head.bbox_head.loss_cls.lambda_"
NAMES = [f"{label}_seed={seed}" for label in ("sigmoid", "eql") for seed in range(3)]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path, help="folder for the data and both sweeps; is new")
    parser.add_argument("--iterations", type=int, default=200, help="of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


def write_sweep(args: argparse.Namespace) -> Path:
    """The sweep file: six runs, and one that cannot be built."""
    interval = max(args.iterations // 5, 1)
    options = {
        **small_options(args.work_dir / "minilvis"),
        "train_cfg.max_iters": args.iterations,
        "train_cfg.val_interval": interval,
        "default_hooks.checkpoint.interval": interval,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "val_evaluator.classwise": True,
    }
    eql = {"config": str(CONFIGS / "mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"), "name": "eql"}
    runs = [
        {"config": str(CONFIGS / "mask-rcnn_r18_fpn_sigmoid_1xb4_minilvis.py"), "name": "sigmoid"},
        eql,
        {**eql, "name": "broken", "options": {LAMBDA: -1}, "seeds": [0]},
    ]
    path = args.work_dir / "sweep.json"
    path.write_text(json.dumps({"options": options, "seeds": [0, 1, 2], "runs": runs}))
    return path


def start(args: argparse.Namespace, name: str) -> subprocess.Popen:
    script, file = REPOSITORY / "tools" / "sweep.py", args.work_dir / "sweep.json"
    folder = args.work_dir / name
    command = [sys.executable, script, file, "--work-dir", folder, "--jobs", args.jobs]
    with (args.work_dir / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(args: argparse.Namespace, name: str) -> None:
    """Run a sweep to its end, at which it tells of the broken entry."""
    status = start(args, name).wait()
    log = (args.work_dir / f"{name}.log").read_text()
    done = [path.parent.name for path in (args.work_dir / name).glob("*/result.json")]
    if status != 1 or "broken: broken_" not in log or sorted(done) != sorted(NAMES):
        raise UserError(f"{args.work_dir}/{name}.log: the sweep did not end well; see its end.")


def kill(args: argparse.Namespace, seconds: float, signum: signal.Signals) -> None:
    process = start(args, "killed")
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        if signum == signal.SIGKILL:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
        status = process.wait()
        done = len(list((args.work_dir / "killed").glob("*/result.json")))
        print(
            f"{signum.name} after {seconds:.0f} s, {done} of 6 runs done: status {status}",
            flush=True,
        )
        return
    raise UserError("the sweep ended before it could be killed; raise --iterations.")


def compare(args: argparse.Namespace) -> list[str]:
    found = []
    for name in NAMES:
        folders = [args.work_dir / sweep / name for sweep in ("unbroken", "killed")]
        states = []
        for folder in folders:
            checkpoint = torch.load(folder / f"iter_{args.iterations}.pth", weights_only=False)
            states.append({key: checkpoint[key] for key in ("state_dict", "optimizer")})
            states[-1]["result"] = json.loads((folder / "result.json").read_text())
        found += differences(*states, name)
    return found


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.work_dir.exists():
        raise UserError(f"{args.work_dir}: exists already; name a new folder.")
    args.work_dir = args.work_dir.resolve()
    args.work_dir.mkdir(parents=True)
    make_minilvis(args.work_dir / "minilvis", DATA, num_workers=1, progress=False)
    write_sweep(args)
    began = time.monotonic()
    finish(args, "unbroken")
    seconds = time.monotonic() - began
    print(f"unbroken sweep: 6 runs of {args.iterations} iterations in {seconds:.0f} s", flush=True)
    moments = random.Random(args.seed)
    kill(args, seconds * moments.uniform(0.3, 0.5), signal.SIGKILL)
    kill(args, seconds * moments.uniform(0.2, 0.4), signal.SIGINT)
    finish(args, "killed")
    found = compare(args)
    if found:
        print(f"DIFFERENT: {', '.join(found[:5])} ({len(found)} in all)")
        sys.exit(1)
    print("weights, optimizer and results of all six runs are equal bit for bit")


if __name__ == "__main__":
    main()
