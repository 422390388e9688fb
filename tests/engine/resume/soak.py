"""Kill a training at random, resume it, and compare its weights with those of an unbroken one.

    python -m tests.engine.resume.soak NEW_FOLDER --kills 20 --iterations 2000

Trains a small Mask R-CNN with EQL v2 on a tiny MiniLVIS twice: once through, and once killed at
random moments (three in four by SIGKILL, the others by SIGTERM, which lets it save) and resumed by
--resume each time. Both evaluate on the way. The weights, the optimizer's state and the record of
the best checkpoint must be equal, bit for bit. Prints a summary and fails if they are not. The
memory of the unbroken run is sampled; with --iterations 5000 it shows whether it grows.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from mmdet_eql.minilvis import MiniLVISConfig, make_minilvis
from mmdet_eql.utils.errors import UserError, exit_on_user_error
from tests.conftest import REPOSITORY, as_arguments, minilvis_config
from tests.engine.resume.test_interruptions import assert_same

DATA = MiniLVISConfig(num_categories=12, num_train_images=60, num_val_images=8, image_size=64)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path, help="folder for the data and both runs; is new")
    parser.add_argument("--kills", type=int, default=20, help="0: the unbroken run alone")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="processes that load images")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


def small_options(data: Path) -> dict[str, object]:
    """What brings a MiniLVIS config to the tiny set, with a small Mask R-CNN."""
    options = {
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 1,
        "val_dataloader.num_workers": 0,
        "val_dataloader.persistent_workers": False,
        "model.roi_head.bbox_head.num_classes": DATA.num_categories,
        "model.roi_head.mask_head.num_classes": DATA.num_categories,
        "model.train_cfg.rpn_proposal.max_per_img": 64,
        "model.train_cfg.rcnn.sampler.num": 32,
        "model.test_cfg.rpn.max_per_img": 64,
        "val_evaluator.ann_file": str(data / "annotations" / "minilvis_val.json"),
        "train_dataloader.dataset.pipeline.2.scale": (64, 64),
        "val_dataloader.dataset.pipeline.1.scale": (64, 64),
    }
    for split in ("train", "val"):
        options[f"{split}_dataloader.dataset.data_root"] = str(data)
    return options


def command(args: argparse.Namespace, name: str) -> list[str]:
    """The command that trains one of the two runs."""
    interval = max(args.iterations // (2 * max(args.kills, 5)), 1)
    options = {
        **small_options(args.work_dir / "minilvis"),
        "train_cfg.max_iters": args.iterations,
        "train_cfg.val_interval": interval * 4,
        "default_hooks.checkpoint.interval": interval,
        "default_hooks.checkpoint.save_best": "lvis/bbox_AP50",
        "default_hooks.checkpoint.rule": "greater",
        "train_dataloader.num_workers": args.workers,
        "train_dataloader.persistent_workers": args.workers > 0,
        "randomness.seed": 0,
    }
    return [
        *(sys.executable, str(REPOSITORY / "tools" / "train.py"), str(minilvis_config("eqlv2"))),
        *("--work-dir", str(args.work_dir / name), "--resume", *as_arguments(options)),
    ]


def start(args: argparse.Namespace, name: str) -> subprocess.Popen:
    with (args.work_dir / f"{name}.log").open("a") as log:
        return subprocess.Popen(command(args, name), stdout=log, stderr=subprocess.STDOUT)


def last_iteration(work_dir: Path) -> int:
    """The last iteration that a run has logged."""
    for scalars in sorted(work_dir.glob("*/vis_data/scalars.json"), reverse=True):
        for line in reversed(scalars.read_text().splitlines()):
            try:
                entry = json.loads(line)
            except ValueError:  # killed while it wrote
                continue
            if "iter" in entry:
                return entry["iter"]
    return 0


def run_unbroken(args: argparse.Namespace) -> tuple[float, float]:
    """Train once through, and return the seconds until the first iteration and after it."""
    began = time.monotonic()
    process = start(args, "unbroken")
    samples, first = [], None
    while process.poll() is None:
        if iteration := last_iteration(args.work_dir / "unbroken"):
            first = first or time.monotonic()
            with contextlib.suppress(psutil.Error):  # it has just ended
                samples.append((iteration, psutil.Process(process.pid).memory_info().rss / 2**20))
        time.sleep(5 if args.iterations > 1000 else 0.5)
    if process.returncode:
        raise UserError(f"{args.work_dir}/unbroken.log: the unbroken run failed; see its end.")
    seconds = time.monotonic() - began
    print(f"unbroken run: {args.iterations} iterations in {seconds:.0f} s", flush=True)
    if len(samples) < 10:
        raise UserError("--iterations: too few to see anything; give more.")
    iterations, used = np.array(samples).T
    settled = iterations > args.iterations / 5
    slope = np.polyfit(iterations[settled], used[settled], 1)[0] * 1000
    thirds = np.array_split(used[settled], 3)
    print(
        f"memory after the first fifth: {np.median(thirds[0]):.0f} MiB in its first third, "
        f"{np.median(thirds[1]):.0f} in the second, {np.median(thirds[2]):.0f} in the last "
        f"({slope:+.1f} MiB in 1000 iterations)",
        flush=True,
    )
    return first - began, began + seconds - first


def run_broken(args: argparse.Namespace, starting: float, training: float) -> None:
    """Train with interruptions, and print what they were."""
    longest = 1.3 * starting + 1.2 * training / args.kills
    moments = random.Random(args.seed)
    survived = {"SIGKILL": 0, "SIGTERM": 0}
    while sum(survived.values()) < args.kills:
        process = start(args, "broken")
        # Some while it starts, so that all phases are met.
        try:
            process.wait(moments.uniform(0.3 * starting, longest))
        except subprocess.TimeoutExpired:
            name = "SIGTERM" if moments.random() < 0.25 else "SIGKILL"
            process.send_signal(getattr(signal, name))
            status = process.wait()
            survived[name] += 1
            reached = last_iteration(args.work_dir / "broken")
            print(f"{name} near iteration {reached}: exit status {status}", flush=True)
            continue
        if process.returncode:
            raise UserError(f"{args.work_dir}/broken.log: a resumed run failed; see its end.")
        print(f"ended before {args.kills} kills: {survived}; raise --iterations", flush=True)
        return
    if start(args, "broken").wait():
        raise UserError(f"{args.work_dir}/broken.log: the last run failed; see its end.")
    print(f"survived {survived['SIGKILL']} SIGKILL and {survived['SIGTERM']} SIGTERM", flush=True)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.work_dir.exists():
        raise UserError(f"{args.work_dir}: exists already; name a new folder.")
    args.work_dir = args.work_dir.resolve()
    args.work_dir.mkdir(parents=True)
    make_minilvis(args.work_dir / "minilvis", DATA, num_workers=1)
    seconds = run_unbroken(args)
    if not args.kills:
        return
    run_broken(args, *seconds)
    runs = [
        torch.load(args.work_dir / name / f"iter_{args.iterations}.pth", weights_only=False)
        for name in ("unbroken", "broken")
    ]
    assert_same(*runs)
    print("weights, optimizer, schedules and the best checkpoint are equal bit for bit")


if __name__ == "__main__":
    main()
