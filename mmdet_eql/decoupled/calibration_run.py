"""From a config and a checkpoint to a calibrated checkpoint and the tables it was chosen by."""

import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmdet_eql.decoupled.calibration import (
    GRID,
    LOGIT_ADJUSTMENT,
    Calibration,
    calibrate_classifier,
    methods_of,
)
from mmdet_eql.decoupled.calibration_search import best_of, box_heads, compare, training_images
from mmdet_eql.engine.checkpoint_fit import weights_of
from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.engine.config_check import listed
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.evaluation.tables import comparison_json, comparison_table
from mmdet_eql.frequency import ClassFrequency, class_frequency_of
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write, check_writable, write_text


def read_grid(texts: Sequence[str] | None) -> list[Calibration] | None:
    """Read what to try, such as ``["norcal=0.2,0.4", "tau-norm=0.5"]``; None without.

    Raises:
        UserError: If a method is unknown, or a value is no number.
    """
    if texts is None:
        return None
    grid = []
    for text in texts:
        method, _, values = text.partition("=")
        if method not in GRID:
            raise UserError(f"--grid {text}: no such method; choose from {', '.join(GRID)}.")
        try:
            grid += [Calibration(method, float(value)) for value in values.split(",")]
        except ValueError:
            raise UserError(
                f"--grid {text}: {values!r} is no list of numbers; write {method}=0.2,0.4."
            ) from None
    return grid


def run_calibration(
    cfg: Config,
    grid: Sequence[Calibration] | None = None,
    num_images: int = 1000,
    by: str = "AP",
    max_per_img: int | None = None,
) -> Calibration:
    """Choose a calibration on training images, print what it does to the validation images, and
    write ``calibrated.pth`` and ``calibration.json`` into the ``work_dir``.

    Args:
        cfg (Config): A config as ``tools/test.py`` has it, with the checkpoint in ``load_from`` and
            a training set that counts its categories. The images are those of
            ``test_dataloader``.
        grid (Sequence[Calibration], optional): What to try. By default all of
            :data:`~mmdet_eql.decoupled.calibration.GRID` that the detector can make use of.
        num_images (int): Training images to choose on.
        by (str): Metric to choose by.
        max_per_img (int, optional): Detections of an image for Fixed AP and pooled AP, by default
            those of ``test_cfg``.

    Returns:
        Calibration: The best one. Logit adjustment, which no checkpoint can hold, is printed as
        options for ``tools/test.py``.

    Raises:
        UserError: If the model cannot be calibrated, or is already, a method of ``grid`` has no
            effect in it, or the job is distributed.
    """
    if cfg.launcher != "none":
        raise UserError("--launcher: calibration runs in one process; leave it out.")
    work_dir = Path(cfg.work_dir)
    check_writable(work_dir / "calibrated.pth", "choose another --work-dir")
    runner = build_runner(cfg, "test")
    detector = bare_model(runner)
    heads = box_heads(detector)
    calibrations = [Calibration(), *_usable(grid, methods_of(heads))]
    runner.call_hook("before_run")
    runner.load_or_resume()
    runner.call_hook("before_test")
    detector.eval()
    frequency = class_frequency_of(DATASETS.build(cfg.train_dataloader.dataset)).select(
        runner.test_dataloader.dataset.metainfo["classes"]
    )

    _check_checkpoint(cfg.load_from, frequency)
    loader = training_images(cfg, num_images, frequency.class_names)
    print(f"\nOn {len(loader.dataset):,} training images:")
    # As the test that the table is to be compared with.
    by_counts = any(each.get("train_ann_file") for each in listed(cfg.test_evaluator))
    of_train = compare(detector, loader, calibrations, frequency, max_per_img, by_counts)
    print("\n" + comparison_table(of_train))
    ranked = best_of(calibrations, of_train, by)
    print(f"\nBest by {by}: {ranked[0]}{_edge(ranked[0], calibrations)}.")
    print(f"On {len(runner.test_dataloader.dataset):,} test images:")
    reported = sorted(ranked, key=lambda calibration: calibration.method != "none")
    of_val = compare(detector, runner.test_dataloader, reported, frequency, max_per_img, by_counts)
    print("\n" + comparison_table(of_val))
    files = {"train": of_train, "test": of_val}
    content = {name: json.loads(comparison_json(of)) for name, of in files.items()}
    content = {"best": str(ranked[0]), "by": by, **content}
    write_text(work_dir / "calibration.json", json.dumps(content, indent=1) + "\n")

    best = ranked[0]
    if best.method == "none":
        print("\nNo calibration is better on the training images; none is written.")
    elif best.method == LOGIT_ADJUSTMENT:
        print(f"\nTest the checkpoint with {_options(best, heads)}")
    else:
        count = torch.from_numpy(frequency.image_count).double()
        write_calibrated(cfg.load_from, work_dir / "calibrated.pth", best, detector, count)
        print(f"\nWrote {work_dir / 'calibrated.pth'}, a checkpoint as any other.")
    return best


def _check_checkpoint(path: str, frequency: ClassFrequency) -> None:
    """Raise a UserError if a checkpoint is calibrated already; warn if it was trained on other
    counts."""
    meta = CheckpointLoader.load_checkpoint(path, "cpu", logger="silent").get("meta") or {}
    if "calibration" in meta:
        raise UserError(
            f"{path}: is calibrated already ({meta['calibration']}), and the methods would come on "
            "top of that; give the checkpoint that it was made of."
        )
    counts = (meta.get("dataset_meta") or {}).get("image_count")
    if counts is not None and list(counts) != frequency.image_count.tolist():
        print_log(
            f"{path}: was trained on other image counts than those of train_dataloader.dataset, "
            "which NorCal and logit adjustment use; give the training set of the checkpoint.",
            "current",
            logging.WARNING,
        )


def write_calibrated(
    source: str,
    target: str | Path,
    calibration: Calibration,
    detector: torch.nn.Module,
    image_count: torch.Tensor,
) -> None:
    """Write a checkpoint with a calibration in its classifiers; ``meta["calibration"]`` names it.

    Args:
        source (str): The checkpoint, which ``detector`` holds and which is changed with it.
        target (str | Path): Where to write its weights, ``meta`` and ``message_hub``.
        calibration (Calibration): One of :data:`~mmdet_eql.decoupled.calibration.AFFINE`.
        detector (nn.Module): The two-stage detector.
        image_count (Tensor): N_j, float64 of shape (C,).
    """
    checkpoint = CheckpointLoader.load_checkpoint(source, "cpu", logger="silent")
    weights = OrderedDict(weights_of(checkpoint))
    for head in box_heads(detector):
        calibrate_classifier(calibration, head, image_count.to(head.fc_cls.weight.device))
    for name, parameter in detector.named_parameters():
        if name.endswith(("fc_cls.weight", "fc_cls.bias")):
            weights[name] = parameter.detach().cpu()
    meta = dict(checkpoint.get("meta") or {}, calibration=str(calibration))
    # By which a test knows the model.
    kept = {key: checkpoint[key] for key in ("message_hub",) if key in checkpoint}
    with atomic_write(target, "choose another --work-dir") as unfinished:
        torch.save({"meta": meta, "state_dict": weights, **kept}, unfinished)


def _usable(grid: Sequence[Calibration] | None, methods: list[str]) -> list[Calibration]:
    """What is to be tried; a UserError if a method that is asked for has no effect."""
    if grid is None:
        return [Calibration(name, value) for name in methods for value in GRID[name]]
    for calibration in grid:
        if calibration.method not in methods:
            raise UserError(
                f"--grid {calibration.method}: does not apply to the classifier of this config; "
                f"choose from {', '.join(methods)} (docs/test-time.md)."
            )
    return list(grid)


def _edge(best: Calibration, calibrations: Sequence[Calibration]) -> str:
    values = [other.value for other in calibrations if other.method == best.method]
    if len(values) > 1 and best.value in (min(values), max(values)):
        return f", at the end of what was tried; go further by --grid {best.method}=..."
    return ""


def _options(best: Calibration, heads: Sequence[torch.nn.Module]) -> str:
    stages = [""] if len(heads) == 1 else [f".{index}" for index in range(len(heads))]
    keys = [f"model.roi_head.bbox_head{stage}.loss_cls" for stage in stages]
    return "--cfg-options " + " ".join(
        f"{key}.type=LogitAdjustedSoftmaxLoss {key}.tau={best.value:g}" for key in keys
    )
