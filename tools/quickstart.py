"""Train Mask R-CNN with and without the Equalization Loss on MiniLVIS, and compare them.

Everything runs on the CPU, the two models side by side. What is done is not done again, and what
was stopped goes on from its last checkpoint. The runs are those of configs/studies/quickstart.yaml.
"""

import argparse
import os
import sys
from pathlib import Path

from arguments import Options, run_tool

REPOSITORY = Path(__file__).resolve().parents[1]
STUDY = "configs/studies/quickstart.yaml"


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
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help="for a shorter try: train_cfg.max_iters=200 train_cfg.val_interval=200",
    )
    return parser.parse_args()


def train_and_compare(args: argparse.Namespace) -> None:
    work_dir = args.work_dir.resolve()
    data = Path(os.environ.get("MMDET_EQL_DATA", REPOSITORY / "data")).resolve()
    os.environ["MMDET_EQL_DATA"] = str(data)
    os.chdir(REPOSITORY)
    from mmdet_eql.minilvis import make_minilvis
    from mmdet_eql.minilvis.folder import read_marker
    from mmdet_eql.runs.execution import Machine
    from mmdet_eql.runs.sweep import run_sweep
    from mmdet_eql.runs.sweep_file import read_entries

    print(f"[1/3] MiniLVIS in {data / 'minilvis'}", flush=True)
    if read_marker(data / "minilvis") is None:
        make_minilvis(data / "minilvis")
    print("[2/3] training", flush=True)
    entries = read_entries(STUDY, options=args.cfg_options)
    # On the CPU also where there is a GPU.
    machine = Machine(REPOSITORY / "tools", jobs=len(entries))
    plan, finished = run_sweep(entries, work_dir, machine)
    if not finished:
        sys.exit(1)
    print("[3/3] results\n", flush=True)
    compare(plan.runs, work_dir)


def compare(runs: list, work_dir: Path) -> None:
    """Print the table, and write it, a page, a plot and pictures to the work_dir."""
    from mmdet.registry import DATASETS

    from mmdet_eql.analysis.drawing import draw_predictions
    from mmdet_eql.frequency import class_frequency_of
    from mmdet_eql.runs.execution import final_checkpoint
    from mmdet_eql.runs.groups import group_runs, load_records
    from mmdet_eql.runs.page import format_page
    from mmdet_eql.runs.planning import RESULT_NAME
    from mmdet_eql.runs.plots import save_overview
    from mmdet_eql.runs.tables import format_report
    from mmdet_eql.utils.files import write_text

    title = "Mask R-CNN with and without the Equalization Loss on MiniLVIS"
    groups = group_runs(load_records(run.work_dir for run in runs))
    report = format_report(groups, groups[0], "welch")
    write_text(work_dir / "table.md", report + "\n")
    print(report + "\n", flush=True)
    # Written last: if it is newer than the results, all is there.
    page = work_dir / "comparison.html"
    newest = max((run.work_dir / RESULT_NAME).stat().st_mtime for run in runs)
    if not page.exists() or page.stat().st_mtime < newest:
        save_overview(groups, work_dir / "ap_over_frequency.png", title)
        frequency = class_frequency_of(DATASETS.build(runs[0].cfg.train_dataloader.dataset))
        models = {run.entry.label: (run.cfg, final_checkpoint(run.work_dir)) for run in runs}
        draw_predictions(models, frequency, work_dir / "predictions")
        write_text(page, format_page(groups, groups[0], "welch", title))
    for name in ("table.md", "comparison.html", "ap_over_frequency.png", "predictions"):
        print(work_dir / name)


if __name__ == "__main__":
    try:
        run_tool(train_and_compare, parse_args())
    except KeyboardInterrupt:
        sys.exit(130)
