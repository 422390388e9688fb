"""``result.json`` in the work_dir of a run: what is kept of it, small enough to commit.

Metrics are those of the last evaluation, of each category, too, if the evaluator has
``classwise=True``. AP and accuracies are fractions; null stands where there is no ground truth.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.decoupled.feature_cache import sha256_of
from mmdet_eql.engine.config_check import listed
from mmdet_eql.engine.launch import read_config
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.runs.planning import RESULT_NAME, digest_of, read_marker, without_seed
from mmdet_eql.runs.run_logs import learning_curve, load_run, number_of_processes, starts
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

#: Under either name, the continuation's or the original's.
_MM = ("onedl-mmcv", "mmcv", "onedl-mmdetection", "mmdet", "onedl-mmengine", "mmengine")
_PACKAGES = ("torch", "numpy", *_MM)
#: Counted training sets by the digest of their config: runs of a sweep share theirs.
_image_counts: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class RunRecord:
    """A run that is done, as ``result.json`` has it.

    Args:
        name (str): Name of its folder; ``label`` is the same without the seed.
        config (str): Name of its config file, without ``.py``; ``options`` come in addition.
        identity (str): Digest of everything that determines its result; ``experiment`` is the same
            without the seed.
        figures (dict[str, dict[str, float]]): Metrics, as in :class:`~.run_logs.RunResult`;
            ``category_figures`` is its ``category_ap``.
        image_count (dict[str, int]): Training images that contain each category; empty if the
            training set does not count them.
        learning_curve (list): Step and metrics of each validation.
        training (dict[str, Any]): How it was trained: number of GPUs, flags, first stage; under
            ``"unfinished"`` the last validation, if the training was to go on after it, and under
            ``"tested"`` the checkpoint of the last evaluation, if that was a test of another one
            than the last; under ``"begun_from"`` the weights that it began from, and their SHA-256.
        evaluated_on (str, optional): Annotation file of the last evaluation, as the config has it.
        evaluation (str, optional): Digest of its content and of the options that set metrics.
    """

    name: str
    label: str
    config: str
    options: dict[str, Any]
    seed: int | None
    identity: str
    experiment: str
    figures: dict[str, dict[str, float]]
    category_figures: dict[str, dict[str, float]] = field(default_factory=dict)
    image_count: dict[str, int] = field(default_factory=dict)
    learning_curve: list[tuple[int, dict]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    evaluated_on: str | None = None
    evaluation: str | None = None


def make_record(work_dir: str | os.PathLike) -> RunRecord:
    """Collect the record of a run, of a sweep or not, from its work_dir.

    A run without a sweep is known by its work_dir: others may have the same config and seed.

    Raises:
        UserError: If it was not evaluated, or its config is not there.
    """
    work_dir = Path(work_dir)
    result = load_run(work_dir)
    marker = read_marker(work_dir)
    paths = sorted(work_dir.glob("*.py"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise UserError(
            f"{work_dir}: holds no config, which training leaves there; give the work_dir of a run."
        )
    cfg = read_config(str(paths[-1]))
    seed = (cfg.get("randomness") or {}).get("seed")
    # Where a run lies and what it was resumed from is not part of the experiment.
    bare = without_seed(cfg)
    for key in ("work_dir", "resume", "load_from", "launcher"):
        bare.pop(key, None)
    if begun_from := _begun_from(work_dir):
        bare.load_from = begun_from
    experiment = digest_of(bare.to_dict())
    name, curve = work_dir.resolve().name, learning_curve(work_dir)
    training = {key: marker[key] for key in ("gpus", "flags", "load_from") if marker.get(key)}
    if not marker and (processes := number_of_processes(work_dir)):
        training["gpus"] = processes
    if result.split == "test" and (tested := _other_checkpoint(cfg, work_dir)):
        training["tested"] = tested
    if begun_from and Path(begun_from).is_file():
        # Absolute paths would differ between clones.
        training["begun_from"] = [os.path.relpath(begun_from), sha256_of(begun_from)]
    if unfinished := _unfinished(cfg, curve):
        training["unfinished"] = unfinished
    return RunRecord(
        name=name,
        label=marker.get("label", name),
        config=marker.get("config", Path(cfg.filename).stem),
        options=marker.get("options", {}),
        seed=marker.get("seed") if marker.get("seed") is not None else seed,
        identity=marker.get("identity", digest_of([experiment, seed, str(work_dir.resolve())])),
        experiment=marker.get("experiment", experiment),
        figures=result.figures,
        category_figures=_rounded(result.category_ap),
        image_count=_count_images(cfg),
        learning_curve=[(step, _rounded(metrics)) for step, metrics in curve],
        training=training,
        versions=_versions(),
        **_evaluation(cfg.get(f"{result.split}_evaluator")),
    )


def record_run(work_dir: str | os.PathLike) -> None:
    """Write the ``result.json`` of a run that is done; errors are as in :func:`make_record`."""
    lines = []
    for key, value in vars(make_record(work_dir)).items():
        text = msgspec.json.encode(value, enc_hook=str)  # with null for NaN
        lines.append(f' "{key}": {msgspec.json.format(text, indent=0).decode()}')
    write_text(Path(work_dir) / RESULT_NAME, "{\n" + ",\n".join(lines) + "\n}\n")


def load_record(path: str | os.PathLike) -> RunRecord:
    """Read a run from its ``result.json``, under any name, or work_dir; or raise a UserError."""
    path = Path(path)
    if path.is_dir():
        if not (path / RESULT_NAME).is_file():
            return make_record(path)
        path = path / RESULT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["figures"] = _with_nan(content["figures"])
        content["category_figures"] = _with_nan(content.get("category_figures", {}))
        curve = content.get("learning_curve", [])
        content["learning_curve"] = [(int(step), _with_nan(metrics)) for step, metrics in curve]
        return RunRecord(**content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a work_dir.") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is no result of a run ({error}); give a work_dir or its {RESULT_NAME}."
        ) from None


def _evaluation(evaluators: Any) -> dict[str, str]:
    """``evaluated_on`` and ``evaluation`` of a record, as far as they are known."""
    chosen = next((each for each in listed(evaluators) if each.get("ann_file")), None)
    if chosen is None:
        return {}
    known = {"evaluated_on": chosen["ann_file"]}
    with contextlib.suppress(OSError):  # the files may be gone
        files = [chosen[key] for key in ("ann_file", "train_ann_file") if chosen.get(key)]
        options = [chosen.get(key) for key in ("iou_thrs", "max_detections")]
        known["evaluation"] = digest_of([*map(sha256_of, files), *options])
    return known


def _begun_from(work_dir: Path) -> str | None:
    """The weights that the training in a work_dir began from, if its first start says so."""
    *_, first = starts(work_dir)
    path = first / "vis_data" / "config.py"
    cfg = read_config(str(path)) if path.is_file() else {}
    return None if cfg.get("resume") else cfg.get("load_from")


def _other_checkpoint(cfg: Config, work_dir: Path) -> str | None:
    """Name of the checkpoint that was tested, unless it is the last one of the training."""
    tested, last = Path(cfg.get("load_from") or "").name, work_dir / "last_checkpoint"
    with contextlib.suppress(OSError):
        if tested == Path(last.read_text(encoding="utf-8").strip()).name:
            return None
    return tested or None


def _unfinished(cfg: Config, curve: list[tuple[int, dict]]) -> str | None:
    """The last validation, if it was before the end of the training."""
    logger = (cfg.get("default_hooks") or {}).get("logger") or {}
    unit = "epoch" if logger.get("log_metric_by_epoch", True) else "iter"
    end = (cfg.get("train_cfg") or {}).get(f"max_{unit}s")
    # Validations of a loop of iterations are at epoch 0 if they are logged by epoch.
    return f"{unit} {curve[-1][0]:,} of {end:,}" if end and curve and curve[-1][0] < end else None


def _count_images(cfg: Config) -> dict[str, int]:
    dataset = cfg.get("train_dataloader", {}).get("dataset")
    if dataset is None:
        return {}
    key = digest_of(dataset)
    if key not in _image_counts:
        init_default_scope(cfg.get("default_scope", "mmdet"))
        _image_counts[key] = {}
        # The training set may be gone, or of a type that does not count.
        with contextlib.suppress(UserError, OSError):
            frequency = class_frequency_of(DATASETS.build(dataset))
            counts = frequency.image_count.tolist()
            _image_counts[key] = dict(zip(frequency.class_names, counts, strict=True))
    return _image_counts[key]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _each_value(metrics: dict, change: Callable[[Any], Any]) -> dict[str, dict]:
    return {
        kind: {name: change(value) for name, value in values.items()}
        for kind, values in metrics.items()
    }


def _rounded(metrics: dict) -> dict[str, dict[str, float]]:
    """To a thousandth of a percent, which keeps the file small."""
    return _each_value(metrics, lambda value: round(value, 5))


def _with_nan(metrics: dict) -> dict[str, dict[str, float]]:
    return _each_value(metrics, lambda value: math.nan if value is None else value)
