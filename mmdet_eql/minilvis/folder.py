"""Writing a MiniLVIS folder: all of it, or nothing."""

import contextlib
import dataclasses
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from mmdet_eql.annotations.cache import CACHE_FOLDER
from mmdet_eql.minilvis.annotation import (
    annotation_file,
    annotation_records,
    image_path,
    semantic_path,
)
from mmdet_eql.minilvis.config import SPLITS, MiniLVISConfig
from mmdet_eql.minilvis.planning import DatasetPlan, ImagePlan, plan_dataset
from mmdet_eql.minilvis.rendering import render_scene
from mmdet_eql.minilvis.vocabulary import Category
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.processes import map_forked, num_cores

#: Name of the marker file of a finished folder.
MARKER = "minilvis.json"
#: Counts up whenever the same options would give other bytes.
FORMAT_VERSION = 1

_JPEG_QUALITY = 95
# Below this, starting processes takes longer than drawing.
_MIN_IMAGES_PER_WORKER = 150


def make_minilvis(
    out_dir: str | os.PathLike,
    config: MiniLVISConfig | None = None,
    num_workers: int | None = None,
    force: bool = False,
) -> None:
    """Render MiniLVIS into a folder, which appears complete or not at all.

    A folder that already holds the set of these options is left as it is.

    Args:
        out_dir (str | os.PathLike): Folder to make; its layout is in :mod:`mmdet_eql.minilvis`.
        config (MiniLVISConfig, optional): Options.
        num_workers (int, optional): Number of processes; the files do not depend on it. None
            takes one per available core, fewer for a small set.
        force (bool): Replace a MiniLVIS folder, whatever its options. Folders that hold any other
            file are never replaced.

    Raises:
        UserError: If the options contradict one another, or the folder holds something else.

    Example:
        >>> make_minilvis("data/minilvis")  # doctest: +SKIP
    """
    config = config or MiniLVISConfig()
    if num_workers is not None and num_workers < 1:
        raise UserError(f"MiniLVIS: num_workers={num_workers} must be at least 1.")
    # A link to a folder on another disk is to stay a link.
    out = Path(os.path.realpath(out_dir))
    if _is_made(out, config, force):
        print(f"{out}: already made with these options.")
        return
    dataset = plan_dataset(config)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True
        ) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            _write_files(new, dataset, config, num_workers)
            # Another process may have filled the folder while this one was drawn.
            if _is_made(out, config, force):
                return
            if out.exists():
                os.replace(out, old)
            try:
                os.replace(new, out)
            except BaseException:
                if old.exists():
                    os.replace(old, out)
                raise
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); fix that, or give another output folder."
        ) from None


def annotation_path(split: str) -> str:
    """Path of a split's annotation file relative to the dataset's folder."""
    return f"annotations/minilvis_{split}.json"


def read_minilvis(folder: str | os.PathLike) -> dict[str, dict]:
    """Read the annotation files by split, as they are; a UserError if the set is not finished."""
    with contextlib.suppress(OSError, ValueError):
        if read_marker(folder) is not None:
            paths = {split: Path(folder) / annotation_path(split) for split in SPLITS}
            return {split: json.loads(path.read_bytes()) for split, path in paths.items()}
    raise UserError(
        f"{folder}: holds no MiniLVIS set; make one with tools/datasets/make_minilvis.py first."
    )


def read_marker(folder: str | os.PathLike) -> dict | None:
    """Read the marker of a finished MiniLVIS folder; None if it has none.

    It is ``{"format_version": int, "config": dict, "num_objects": dict}``, the last one the number
    of all objects of each split, annotated or not.
    """
    try:
        marker = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    expected = {"format_version", "config", "num_objects"}
    return marker if isinstance(marker, dict) and expected <= marker.keys() else None


def _is_made(out: Path, config: MiniLVISConfig, force: bool) -> bool:
    """Whether the folder already holds the set; raises if it holds what must not be replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give the name of a folder to make.")
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not present:
        return False
    marker = read_marker(out)
    if marker is None:
        raise UserError(
            f"{out}: holds files, but no MiniLVIS set ({MARKER} is missing or damaged); give "
            "another folder, or remove this one yourself."
        )
    try:
        made_with = MiniLVISConfig(**marker["config"])
        expected = _expected_files(made_with)
    except (TypeError, UserError):
        raise UserError(
            f"{out / MARKER}: records options that this version does not know; give another "
            "folder, or remove this one yourself."
        ) from None
    if force:
        foreign = sorted(path for path in present - expected if CACHE_FOLDER not in path.split("/"))
        if foreign:
            raise UserError(
                f"{out / foreign[0]}: is no part of the MiniLVIS set there ({len(foreign)} such "
                "file(s)), so the folder is not replaced; move it away, or give another folder."
            )
        return False
    difference = ", ".join(
        f"{name}={getattr(made_with, name)} instead of {value}"
        for name, value in dataclasses.asdict(config).items()
        if getattr(made_with, name) != value
    )
    if marker["format_version"] != FORMAT_VERSION:
        difference = f"format version {marker['format_version']}"
    if difference:
        raise UserError(
            f"{out}: holds a MiniLVIS set made with other options ({difference}); give another "
            "folder, or remove this one (make_minilvis.py --force replaces it)."
        )
    missing = sorted(expected - present)
    if missing:
        raise UserError(
            f"{out / missing[0]}: is missing from the MiniLVIS set there ({len(missing)} file(s) "
            "are); make the set again with --force (force=True)."
        )
    return True


def _expected_files(config: MiniLVISConfig) -> set[str]:
    files = {MARKER, *map(annotation_path, SPLITS)}
    for split in SPLITS:
        for image_id in config.image_ids(split):
            files |= {image_path(split, image_id), semantic_path(split, image_id)}
    return files


def _write_files(
    folder: Path, dataset: DatasetPlan, config: MiniLVISConfig, num_workers: int | None
) -> None:
    for name in ("annotations", *SPLITS, *(f"semantic/{split}" for split in SPLITS)):
        (folder / name).mkdir(parents=True)
    plans = [plan for split in SPLITS for plan in dataset.images[split]]
    if num_workers is None:
        num_workers = min(num_cores(), 1 + len(plans) // _MIN_IMAGES_PER_WORKER)
    draw = partial(_write_image, folder=folder, categories=dataset.categories, config=config)
    annotations = {split: [] for split in SPLITS}
    # When interrupted, no process writes on while the folder is removed.
    with map_forked(draw, plans, num_workers) as results:
        # None: a log file gets no bar.
        bar = tqdm(results, "MiniLVIS", len(plans), unit="image", disable=None)
        for plan, records in zip(plans, bar, strict=True):
            annotations[plan.split] += records

    for split in SPLITS:
        content = annotation_file(dataset, split, annotations[split], config)
        text = json.dumps(content, separators=(",", ":"))
        (folder / annotation_path(split)).write_text(text, encoding="utf-8")
    marker = {
        "format_version": FORMAT_VERSION,
        "config": dataclasses.asdict(config),
        "num_objects": {
            split: sum(len(plan.category_ids) for plan in dataset.images[split]) for split in SPLITS
        },
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=2), encoding="utf-8")


def _write_image(
    plan: ImagePlan, folder: Path, categories: tuple[Category, ...], config: MiniLVISConfig
) -> list[dict]:
    """Draw and write one image; returns its annotation records."""
    scene = render_scene(plan, categories, config)
    jpeg = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    png = cv2.imencode(".png", scene.semantic)[1]
    # cv2.imwrite returns False on a full disk; this raises.
    (folder / image_path(plan.split, plan.image_id)).write_bytes(jpeg.tobytes())
    (folder / semantic_path(plan.split, plan.image_id)).write_bytes(png.tobytes())
    return annotation_records(plan, scene)
