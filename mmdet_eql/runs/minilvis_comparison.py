"""From configs to a table, a plot and pictures: runs on MiniLVIS trained and compared.

Everything lies in one work_dir, and what is there is not done again::

    settings.json               what the folder was made with; anything else is refused
    configs/                    the configs that were run, complete
    NAME/                       work_dir of each run, with its train.log
    table.md                    box and mask AP, APr, APc, APf
    ap_over_frequency.png       AP per frequency group, and per category over training images
    predictions/                validation images with annotations and predictions
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.analysis.drawing import draw_predictions
from mmdet_eql.annotations.checks import load_lvis_json
from mmdet_eql.engine.launch import read_config
from mmdet_eql.frequency import GROUP_NAMES, ClassFrequency, class_frequency_of
from mmdet_eql.minilvis.folder import annotation_path, make_minilvis, read_marker
from mmdet_eql.runs.comparison_table import format_table
from mmdet_eql.runs.config_overrides import set_max_iters, use_dataset
from mmdet_eql.runs.display import make_display
from mmdet_eql.runs.frequency_plot import plot_runs
from mmdet_eql.runs.planning import SweepRun, TrainingOptions
from mmdet_eql.runs.processes import LOG_NAME
from mmdet_eql.runs.run_results import RunResult, load_run
from mmdet_eql.runs.scheduler import Machine, final_checkpoint, find_final_checkpoint, train_runs
from mmdet_eql.runs.sweep_file import Entry
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import hold_folder, write_text

_MEND = "give another --work-dir"


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Args:
        configs (Mapping[str, Path]): Config files of MiniLVIS by the names of their runs; the first
            is the baseline.
        data (Path): Folder of the MiniLVIS set; the default set is made there if it is missing.
        work_dir (Path): Folder for all results.
        tools (Path): Folder of ``train.py`` and ``test.py``.
        max_iters (int, optional): Number of training iterations; None for that of the configs.
        seed (int): Seed of every run.
    """

    configs: Mapping[str, Path]
    data: Path
    work_dir: Path
    tools: Path
    max_iters: int | None = None
    seed: int = 0


def compare_on_minilvis(comparison: Comparison, say: Callable[[str], None] = print) -> None:
    """Make the data, train, evaluate, and show what came out, as far as it is not there yet.

    Args:
        comparison (Comparison): What to compare.
        say (Callable[[str], None]): Prints a line.

    Raises:
        UserError: If something cannot be used, a run fails, or the work_dir was made with other
            settings or is in use.
    """
    if comparison.max_iters is not None and comparison.max_iters < 1:
        raise UserError(f"max_iters is {comparison.max_iters}; it must be at least 1.")
    with hold_folder(comparison.work_dir, _MEND):
        say(f"[1/4] MiniLVIS in {comparison.data}")
        if read_marker(comparison.data) is None:
            make_minilvis(comparison.data)
        configs = _adapt_configs(comparison)
        class_frequency = _training_frequency(next(iter(configs.values())))
        _check_settings(comparison, configs)
        runs = _plan_runs(comparison, configs)

        say(f"[2/4] {_describe_training(configs)}")
        try:
            # On the CPU also where there is a GPU.
            machine = Machine(comparison.tools, jobs=len(runs))
            with make_display() as display:
                statuses = train_runs(runs, machine, display)
        except KeyboardInterrupt:
            say(f"stopped: {_describe_progress(runs)}")
            raise
        for status in statuses:
            if status.stage == "failed":
                raise UserError(
                    f"{comparison.work_dir / status.name / LOG_NAME}: the run {status.name!r} "
                    f"{status.reason}; its log tells more. Running this again goes on from the "
                    "last checkpoints."
                )

        results = {run.name: load_run(run.work_dir) for run in runs}
        say("[3/4] pictures")
        paths = _draw(comparison, configs, results, class_frequency)
        say("[4/4] results\n")
        table = _table(configs, results, class_frequency)
        write_text(comparison.work_dir / "table.md", table + "\n", _MEND)
        say(table)
        say("")
        for path in paths:
            say(f"{path}")


def _adapt_configs(comparison: Comparison) -> dict[str, Config]:
    path = comparison.data / annotation_path("train")
    num_classes = len(load_lvis_json(str(path))["categories"])
    configs = {}
    for name, config in comparison.configs.items():
        cfg = read_config(str(config))
        use_dataset(cfg, comparison.data, num_classes)
        cfg.randomness = {"seed": comparison.seed}
        for evaluator in ("val_evaluator", "test_evaluator"):
            cfg[evaluator].classwise = True
        if comparison.max_iters is not None:
            set_max_iters(cfg, comparison.max_iters)
        configs[name] = cfg
    return configs


def _training_frequency(cfg: Config) -> ClassFrequency:
    init_default_scope(cfg.get("default_scope", "mmdet"))
    return class_frequency_of(DATASETS.build(cfg.train_dataloader.dataset))


def _plan_runs(comparison: Comparison, configs: Mapping[str, Config]) -> list[SweepRun]:
    runs = []
    for name, cfg in configs.items():
        file, digest = comparison.configs[name], _digest_of_config(cfg)
        runs.append(
            SweepRun(
                name=name,
                label=name,
                entry=Entry(str(file), name, {}, seed=comparison.seed),
                cfg=cfg,
                identity=digest,
                experiment=digest,
                work_dir=comparison.work_dir / name,
                config=comparison.work_dir / "configs" / file.name,
                training=TrainingOptions(),
            )
        )
    return runs


# --- settings -------------------------------------------------------------------------------------


def _check_settings(comparison: Comparison, configs: Mapping[str, Config]) -> None:
    """Refuse a work_dir that was made with other settings; note them in a new one."""
    path = comparison.work_dir / "settings.json"
    settings = {
        "max_iters": next(iter(configs.values())).train_cfg.max_iters,
        "seed": comparison.seed,
        "dataset": _digest_of_files(
            [comparison.data / annotation_path(split) for split in ("train", "val")]
        ),
        **{f"config of {name}": _digest_of_config(cfg) for name, cfg in configs.items()},
    }
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        write_text(path, json.dumps(settings, indent=2) + "\n", _MEND)
        return
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path}: cannot be read; give another --work-dir.") from None
    changed = [key for key in settings if known.get(key) != settings[key]]
    if changed:
        key = changed[0]
        what = (
            f"with {key} {known.get(key)} instead of {settings[key]}"
            if key in ("max_iters", "seed")
            else f"with another {key}"
        )
        raise UserError(
            f"{comparison.work_dir}: was made {what}; give another --work-dir, or remove this one."
        )


def _digest_of_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest_of_config(cfg: Config) -> str:
    # The set counts by its content, wherever it lies.
    neutral = Config(cfg.to_dict())
    use_dataset(neutral, "", cfg.model.roi_head.bbox_head.num_classes)
    text = json.dumps(neutral.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# --- results --------------------------------------------------------------------------------------


def _draw(
    comparison: Comparison,
    configs: Mapping[str, Config],
    results: Mapping[str, RunResult],
    class_frequency: ClassFrequency,
) -> list[Path]:
    """Draw what is not drawn yet, or is older than the results."""
    newest = max(result.path.stat().st_mtime for result in results.values())
    plot = comparison.work_dir / "ap_over_frequency.png"
    if not _is_newer(plot, newest):
        plot_runs(results, class_frequency, plot, title=_describe_training(configs))
    folder = comparison.work_dir / "predictions"
    if not _is_newer(folder, newest):
        models = {
            name: (cfg, final_checkpoint(comparison.work_dir / name))
            for name, cfg in configs.items()
        }
        with _whole_folder(folder) as unfinished:
            draw_predictions(models, class_frequency, unfinished)
    return [comparison.work_dir / "table.md", plot, *sorted(folder.glob("*.png"))]


def _table(
    configs: Mapping[str, Config],
    results: Mapping[str, RunResult],
    class_frequency: ClassFrequency,
) -> str:
    baseline, *others = results
    groups = class_frequency.group.tolist()
    sizes = ", ".join(f"{groups.count(group)} {name}" for group, name in GROUP_NAMES.items())
    return (
        f"{_describe_training(configs)}; {len(class_frequency)} categories: {sizes}; AP in %\n\n"
        + format_table(results, difference=(others[-1], baseline), title="MiniLVIS val")
    )


def _describe_training(configs: Mapping[str, Config]) -> str:
    cfg = next(iter(configs.values()))
    backbone = cfg.model.backbone
    return (
        f"Mask R-CNN ({backbone.type}-{backbone.depth}), {' and '.join(configs)}: "
        f"{cfg.train_cfg.max_iters} iterations of {cfg.train_dataloader.batch_size} images"
    )


def _describe_progress(runs: list[SweepRun]) -> str:
    parts = []
    for run in runs:
        total = run.cfg.train_cfg.max_iters
        # Named iter_200.pth.
        checkpoint = find_final_checkpoint(run.work_dir)
        iteration = checkpoint.stem.rpartition("_")[2] if checkpoint else 0
        parts.append(f"the last checkpoint of {run.name} is at {iteration} of {total}")
    return ", ".join(parts)


# --- files ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes its place when all is written."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_newer(path: Path, time: float) -> bool:
    try:
        return path.stat().st_mtime >= time
    except OSError:
        return False
