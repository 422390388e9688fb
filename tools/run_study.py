"""Run a study: make its data, train all of its runs and print its tables.

    bash tools/run_study.sh classifiers
    bash tools/run_study.sh my_study.yaml --seeds 0 --jobs 4

What is done is not done again, and what was stopped goes on where it was.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import sweep
from arguments import add_cfg_options, run_tool, tool_parser

REPOSITORY = Path(__file__).resolve().parents[1]
EPILOG = """Further options are those of tools/sweep.py (default: --jobs with the number of
cores); with --dry-run data are made, and nothing is trained.

environment variables:
  MMDET_EQL_DATA        folder for the data (default: data in the repository)
  CUDA_VISIBLE_DEVICES  GPUs to train on (default: none, as for the published tables)
  LVIS_ANNOTATIONS      lvis_v0.5_train.json, for classifiers-lvis
"""


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.epilog = EPILOG
    parser.add_argument(
        "study", help="sweep file with a section 'study', or its name in configs/studies"
    )
    parser.add_argument("--work-dir", type=os.path.abspath, help="default: in work_dirs")
    add_cfg_options(
        parser, "of all trainings; a shorter try: train_cfg.max_iters=200 decoupled.epochs=1"
    )
    args, args.of_sweep = parser.parse_known_args()
    return args


def run_study(args: argparse.Namespace) -> None:
    from mmdet_eql.analysis.study_report import print_tables
    from mmdet_eql.runs.execution import final_checkpoint
    from mmdet_eql.runs.planning import labels_of
    from mmdet_eql.runs.study_file import read_study
    from mmdet_eql.runs.sweep_file import read_entries
    from mmdet_eql.utils.errors import print_warnings_as_sentences

    print_warnings_as_sentences()
    file = REPOSITORY / "configs" / "studies" / f"{args.study}.yaml"
    file = file if file.is_file() else Path(args.study)
    study, file = read_study(file), file.resolve()
    sets = {name: with_paths({**study.data, **more}) for name, more in study.sets.items()}
    given = [f"--jobs={os.cpu_count()}", *args.of_sweep, *["--keep-detections"] * study.pictures]
    of_sweep = sweep.parse_args([str(file), *given])
    study.check_labels(labels_of(read_entries(file, grid=of_sweep.grid)), file)
    # Relative to the repository, so that paths in results are the same in all clones.
    work_dir = Path(args.work_dir or f"work_dirs/{study.folder or file.stem}")
    data = os.environ.get("MMDET_EQL_DATA")
    data = os.environ["MMDET_EQL_DATA"] = os.path.abspath(data) if data else "data"
    os.chdir(REPOSITORY)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{file.stem}: about {study.core_hours} hours of one core, shared out among the jobs")

    options, first, start = args.cfg_options or {}, study.first_stage, {}
    # The rest is for the classifiers alone.
    of_detector = {key: options[key] for key in options if not key.startswith("decoupled.")}
    if first is not None:
        folder = Path("work_dirs", first.folder) if first.folder else work_dir / "first_stage"
        make_data(data, first.data)
        first_file = file.parent / first.file
        first_run = only_run(first_file, folder, of_detector, first.processes)
        if not of_sweep.dry_run:
            train(first_file, folder, [f"--gpus={first.processes}"], of_detector)
        elif not first_run.is_done:
            print(f"{first_run.work_dir}: to do, and then what starts from it")
            return
        checkpoint = final_checkpoint(first_run.work_dir)
        start = {"load_from": str(checkpoint)}
    for name, made_with in sets.items():
        folder = work_dir / name
        make_data(data, made_with, name)
        if study.features is not None:
            out = first_run.work_dir / f"features-{Path(os.environ['MMDET_EQL_DATA']).name}"
            if not of_sweep.dry_run:
                cfg = only_run(first_file, out, of_detector).cfg
                cache_features(cfg.pretty_text, checkpoint, out, study.features)
            elif not out.exists():
                print(f"{out}: to do, and then what is trained on it")
                continue
            start = {"features": str(out)}
        if study.image_bins:
            start["val_evaluator.classwise"] = True
        runs = train(file, folder, given, {**start, **options})
        if runs is not None:
            print_tables(study, runs, folder, file.stem)


def with_paths(options: dict) -> dict:
    """Put absolute paths in place of environment variables."""
    from mmdet_eql.utils.errors import UserError

    paths = {}
    for key, value in options.items():
        if isinstance(value, str) and value.startswith("$"):
            path = os.environ.get(value[1:], "")
            if not os.path.isfile(path):
                raise UserError(f"{value[1:]} is {path!r}; set it to the path of a file for {key}.")
            paths[key] = os.path.abspath(path)
    return {**options, **paths}


def make_data(data: str, options: dict, name: str = "") -> None:
    """Make a set, unless it is there, and have configs use it."""
    arguments = [f"--{key.replace('_', '-')}={options[key]}" for key in options if key != "folder"]
    folder = Path(data, "-".join(filter(None, [str(options.get("folder", "")), name])))
    if folder.suffix != ".npz":
        os.environ["MMDET_EQL_DATA"] = str(folder)
        if options:
            run("tools/datasets/make_minilvis.py", folder / "minilvis", *arguments)
    elif not folder.exists():
        run("tools/datasets/make_minilvis_crops.py", folder, *arguments)


def train(file: Path, work_dir: Path, arguments: list, options: dict) -> list | None:
    """Train what is not trained yet, and return the runs if they are trained here."""
    args = sweep.parse_args([str(file), "--work-dir", str(work_dir), *arguments])
    args.cfg_options = options
    return sweep.sweep(args)


def only_run(file: Path, work_dir: Path, options: dict, processes: int = 1):
    """Plan the run of the sweep file of a first stage."""
    from mmdet_eql.runs.planning import TrainingOptions, plan_runs
    from mmdet_eql.runs.sweep_file import read_entries
    from mmdet_eql.utils.errors import UserError

    plan = plan_runs(read_entries(file, options=options), work_dir, TrainingOptions(processes))
    if plan.invalid:
        raise UserError(f"{file}: {plan.invalid[0].name}: {plan.invalid[0].reason}")
    if len(plan.runs) != 1:
        raise UserError(f"{file}: has {len(plan.runs)} runs, but is a first stage; leave one.")
    return plan.runs[0]


def cache_features(config: str, checkpoint: Path, out: Path, options) -> None:
    """Compute what is missing of the features of the first stage, on the data in use."""
    from mmdet_eql.decoupled.feature_cache import sha256_of
    from mmdet_eql.utils.errors import UserError
    from mmdet_eql.utils.files import write_text

    arguments = ["--dtype", options.dtype, *["--flips"] * options.flips]
    arguments += ["--rois", str(options.rois)] * (options.rois is not None)
    # What they are made of, written last.
    made, wanted = out / "made.txt", f"{sha256_of(checkpoint)} {arguments}\n{config}"
    if made.exists():
        if made.read_text(encoding="utf-8") != wanted:
            raise UserError(
                f"{out}: has features of another first stage or of other options; remove it, to "
                "compute them anew, or give these options."
            )
        print(f"{out}: complete.")
        return
    write_text(out / "config.py", config)
    run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("tools/cache_features.py", out / "config.py", checkpoint, "--out", out),
        *("--launcher", "pytorch", *arguments),
    )
    write_text(made, wanted)


def run(*arguments: str | Path) -> None:
    """Run Python with arguments; end with its status if it fails."""
    if status := subprocess.run([sys.executable, *map(str, arguments)]).returncode:
        sys.exit(status)


if __name__ == "__main__":
    run_tool(run_study, parse_args())
