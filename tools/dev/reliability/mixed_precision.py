"""Compare trainings in bfloat16 and in float32, on the CPU or a GPU.

Trains a small Mask R-CNN with EQL on a tiny MiniLVIS with several seeds, each once by --amp
--amp-dtype bfloat16 and once without, and prints the mean loss of the last fifth of the iterations
and the AP50 of boxes of each. Fails if the two types differ by more than what a difference of two
means over as many seeds comes to by chance: three times its standard error.
"""

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import soak

from mmdet_eql.minilvis import make_minilvis
from mmdet_eql.runs.run_results import load_run
from mmdet_eql.utils.errors import UserError, exit_on_user_error

CONFIG = soak.CONFIG.with_name("mask-rcnn_r18_fpn_eql_1xb4_minilvis.py")
DATA = dataclasses.replace(soak.DATA, num_train_images=300, num_val_images=60)
TYPES = ("float32", "bfloat16")
FIGURES = ("loss", "AP50")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path, help="folder for the data and all runs; is new")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=400)
    return parser.parse_args()


def train(args: argparse.Namespace, kind: str, seed: int) -> dict[str, float]:
    """Train one run, and return its figures and its seconds per iteration."""
    work_dir = args.work_dir / f"{kind}_{seed}"
    options = {
        **soak.small_options(args.work_dir / "minilvis"),
        "train_cfg.max_iters": args.iterations,
        "train_cfg.val_interval": args.iterations,
        "param_scheduler.0.end": args.iterations // 8,
        "param_scheduler.1.end": args.iterations,
        "param_scheduler.1.milestones": f"[{args.iterations * 3 // 4}]",
        "default_hooks.checkpoint.interval": args.iterations,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "train_dataloader.batch_size": 2,
        "model.roi_head.bbox_head.loss_cls.lambda_": 0.1,
        "randomness.seed": seed,
    }
    command = [
        *(sys.executable, str(soak.REPOSITORY / "tools" / "train.py"), str(CONFIG)),
        *("--work-dir", str(work_dir)),
        *(("--amp", "--amp-dtype", kind) if kind != "float32" else ()),
        *("--cfg-options", *(f"{k}={v}".replace(" ", "") for k, v in options.items())),
    ]
    with (args.work_dir / f"{work_dir.name}.log").open("w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise UserError(f"{log.name}: the training failed; see its end.")
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    records = [record for record in records if "loss" in record]
    last = records[-(len(records) // 5) :]
    return {
        "loss": statistics.mean(record["loss"] for record in last),
        "AP50": load_run(work_dir).figures["bbox"]["AP50"],
        "seconds": statistics.median(record["time"] for record in last),
    }


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.seeds < 2 or args.iterations < 50:
        raise UserError("--seeds and --iterations: give at least 2 and 50.")
    if args.work_dir.exists():
        raise UserError(f"{args.work_dir}: exists already; name a new folder.")
    args.work_dir = args.work_dir.resolve()
    args.work_dir.mkdir(parents=True)
    make_minilvis(args.work_dir / "minilvis", DATA, num_workers=1, progress=False)
    runs: dict[str, list[dict]] = {kind: [] for kind in TYPES}
    for seed in range(args.seeds):
        for kind in TYPES:
            run = train(args, kind, seed)
            runs[kind].append(run)
            told = ", ".join(f"{name} {run[name]:.3f}" for name in (*FIGURES, "seconds"))
            print(f"seed {seed}, {kind}: {told}", flush=True)
    different = []
    for name in FIGURES:
        means, spread = {}, 0.0
        for kind in TYPES:
            values = [run[name] for run in runs[kind]]
            means[kind] = statistics.mean(values)
            spread += statistics.variance(values) / args.seeds
            print(f"{name}, {kind}: {means[kind]:.3f} +- {statistics.stdev(values):.3f}")
        difference, error = means["bfloat16"] - means["float32"], math.sqrt(spread)
        print(f"{name}: bfloat16 differs by {difference:+.3f}, standard error {error:.3f}")
        if not abs(difference) <= 3 * error:
            different.append(name)
    if different:
        raise UserError(f"--amp-dtype bfloat16: {' and '.join(different)} differ beyond noise.")
    print("within the noise of the seeds")


if __name__ == "__main__":
    main()
