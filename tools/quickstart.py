"""Compare losses and samplers on MiniLVIS, each as the classifier of one frozen detector.

A small Mask R-CNN is trained; features of its regions are computed once; and a classifier is
trained on them for each loss, sampler and seed of configs/studies/quickstart.yaml. Everything runs
on two cores. What is done is not done again, and what was stopped goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from arguments import add_cfg_options, run_tool

REPOSITORY = Path(__file__).resolve().parents[1]
FIRST_STAGE = "configs/studies/quickstart-first-stage.yaml"
STUDY = "configs/studies/quickstart.yaml"
#: Part of the experiment: images of an iteration of the first stage are shared out among them.
PROCESSES = 2
#: Options of the data sets, by folder: of the first stage, and of the classifiers.
DATA = {
    "balanced": dict(num_train_images=4000, num_val_images=300, steepness=0, label_rate=1, seed=1),
    ".": dict(num_train_images=6000, num_val_images=600, label_rate=0.7),
}
TITLE = "Losses and samplers for a frozen detector on MiniLVIS"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/quickstart.sh",
        description=__doc__,
        epilog="Environment variable MMDET_EQL_DATA: folder for the data (default: data).",
    )
    work_dir = REPOSITORY / "work_dirs" / "quickstart"
    parser.add_argument(
        "--work-dir", type=Path, default=work_dir, help="for all results (default: %(default)s)"
    )
    add_cfg_options(
        parser, "of all trainings; for a shorter try: train_cfg.max_iters=200 decoupled.epochs=1"
    )
    return parser.parse_args()


def train_and_compare(args: argparse.Namespace) -> None:
    work_dir = args.work_dir.resolve()
    data = Path(os.environ.get("MMDET_EQL_DATA", REPOSITORY / "data")).resolve() / "quickstart"
    os.chdir(REPOSITORY)
    from mmdet_eql.minilvis import MiniLVISConfig, make_minilvis
    from mmdet_eql.runs.execution import final_checkpoint
    from mmdet_eql.runs.planning import TrainingOptions
    from mmdet_eql.runs.sweep_file import read_entries

    print(f"[1/5] MiniLVIS in {data}", flush=True)
    for folder, made_with in DATA.items():
        make_minilvis(data / folder / "minilvis", MiniLVISConfig(**made_with))

    print("[2/5] first stage: a detector, on the balanced set", flush=True)
    os.environ["MMDET_EQL_DATA"] = str(data / "balanced")
    options = args.cfg_options or {}
    # The rest is for the classifiers alone.
    of_detector = {key: options[key] for key in options if key.split(".")[0] != "decoupled"}
    entries = read_entries(FIRST_STAGE, options=of_detector)
    (first,) = sweep(entries, work_dir / "first_stage", TrainingOptions(PROCESSES))
    features = first.work_dir / "features"

    print("[3/5] its features on the long-tailed set", flush=True)
    os.environ["MMDET_EQL_DATA"] = str(data)
    cache_features(final_checkpoint(first.work_dir), features, of_detector)

    print("[4/5] classifiers on them", flush=True)
    options = {**options, "features": str(features)}
    training = TrainingOptions(keep_detections=True)
    runs = sweep(read_entries(STUDY, options=options), work_dir / "classifiers", training)
    print("[5/5] results\n", flush=True)
    compare(runs, work_dir)


def sweep(entries: list, work_dir: Path, training) -> list:
    """Train what is not trained yet, and return the runs."""
    from mmdet_eql.runs.execution import Machine
    from mmdet_eql.runs.sweep import run_sweep

    # On the CPU also where there is a GPU.
    machine = Machine(REPOSITORY / "tools", jobs=PROCESSES)
    plan, finished = run_sweep(entries, work_dir, machine, training)
    if not finished:
        sys.exit(1)
    return plan.runs


def cache_features(checkpoint: Path, out: Path, options: dict) -> None:
    """Compute what is missing of the features of the first stage."""
    from mmdet_eql.decoupled.feature_cache import read_description
    from mmdet_eql.runs.planning import plan_runs
    from mmdet_eql.runs.sweep_file import read_entries
    from mmdet_eql.utils.files import write_text

    if (out / "features.json").exists():
        description = read_description(out)
        if not any(description.missing_shards(out, split) for split in description.splits):
            print(f"{out}: complete.")
            return
    # The detector of the first stage, on the data that MMDET_EQL_DATA names now.
    (run,) = plan_runs(read_entries(FIRST_STAGE, options=options), out).runs
    config = out.with_name("features.py")
    write_text(config, run.cfg.pretty_text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={PROCESSES}", "tools/cache_features.py", str(config)]
    command += [str(checkpoint), "--out", str(out), "--launcher", "pytorch"]
    status = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    if status:
        sys.exit(status)


def compare(runs: list, work_dir: Path) -> None:
    """Print the tables, and write them, a page, a plot and pictures to the work_dir."""
    from mmdet.registry import DATASETS

    from mmdet_eql.analysis.drawing import draw_predictions
    from mmdet_eql.analysis.image_intervals import gain_table
    from mmdet_eql.frequency import class_frequency_of
    from mmdet_eql.runs.execution import DETECTIONS_NAME, final_checkpoint
    from mmdet_eql.runs.groups import group_runs, load_records
    from mmdet_eql.runs.page import format_page
    from mmdet_eql.runs.planning import RESULT_NAME
    from mmdet_eql.runs.plots import save_overview
    from mmdet_eql.runs.tables import format_report
    from mmdet_eql.utils.files import write_text

    table, page = work_dir / "table.md", work_dir / "comparison.html"
    # What is compared, written last.
    compared = work_dir / "compared.json"
    results = {run.identity: (run.work_dir / RESULT_NAME).stat().st_mtime for run in runs}
    if not compared.exists() or json.loads(compared.read_text(encoding="utf-8")) != results:
        groups = group_runs(load_records(run.work_dir for run in runs))
        detections, models = {}, {}
        for run in runs:
            detections.setdefault(run.label, []).append(run.work_dir / DETECTIONS_NAME)
            models.setdefault(run.label, (run.cfg, final_checkpoint(run.work_dir)))
        ann_file = runs[0].cfg.val_evaluator.ann_file
        report = format_report(groups, groups[0], "welch")
        report += "\n\n" + gain_table(ann_file, detections)
        write_text(table, report + "\n")
        save_overview(groups, work_dir / "ap_over_frequency.png", TITLE)
        frequency = class_frequency_of(DATASETS.build(runs[0].cfg.train_dataloader.dataset))
        draw_predictions(models, frequency, work_dir / "predictions")
        write_text(page, format_page(groups, groups[0], "welch", TITLE))
        write_text(compared, json.dumps(results))
    print(table.read_text(encoding="utf-8"), flush=True)
    for name in ("table.md", "comparison.html", "ap_over_frequency.png", "predictions"):
        print(work_dir / name)


if __name__ == "__main__":
    run_tool(train_and_compare, parse_args())
