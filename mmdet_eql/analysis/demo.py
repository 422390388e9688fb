"""Predictions in images that are in no dataset, coloured by frequency group."""

import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmdet.apis import inference_detector
from mmengine.config import Config

from mmdet_eql.analysis.drawing import draw_panels, load_detector, predicted_instances
from mmdet_eql.frequency import frequency_group
from mmdet_eql.utils.errors import UserError

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_images(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Image files, and those in folders, in the order given.

    Args:
        paths (Sequence[str | os.PathLike]): Files and folders.

    Returns:
        list[Path]: Files, those of a folder sorted by name.

    Raises:
        UserError: If a path does not exist, or a folder holds no image.
    """
    images = []
    for path in map(Path, paths):
        if path.is_file():
            images.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"{path}: no such image or folder; correct the path.")
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise UserError(
                f"{path}: holds no image ({', '.join(_SUFFIXES)}); give a folder of them."
            )
        images += found
    return images


def draw_images(
    images: Sequence[Path],
    config: Config,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    score_thr: float = 0.3,
    max_instances: int = 50,
) -> list[Path]:
    """Draw what a model finds in images.

    Names and frequency groups of the categories come from the checkpoint.

    Args:
        images (Sequence[Path]): Image files.
        config (Config): Config of the model, whose test pipeline is used.
        checkpoint (str | os.PathLike): Its checkpoint.
        out_dir (str | os.PathLike): Folder for one PNG per image, named after its file.
        score_thr (float): Least score of what is drawn.
        max_instances (int): Greatest number of objects that are drawn in an image.

    Returns:
        list[Path]: The PNG files, in the order of the images.

    Raises:
        UserError: If the checkpoint or an image cannot be used, or a file not be written.
    """
    detector = load_detector(config, checkpoint)
    meta = detector.dataset_meta
    names = meta.get("classes")
    if names is None:
        raise UserError(
            f"{checkpoint}: names no categories (meta['dataset_meta']['classes']); give a "
            "checkpoint that a training wrote."
        )
    groups = (
        list(frequency_group(meta["image_count"])) if "image_count" in meta else [""] * len(names)
    )
    drawn = []
    for image in images:
        found = predicted_instances(inference_detector(detector, str(image)))
        panel = {f"score ≥ {score_thr:g}": found.best(max_instances, score_thr)}
        path = _free_path(Path(out_dir), image.stem, drawn)
        draw_panels(mmcv.imread(image, channel_order="rgb"), panel, names, groups, path)
        drawn.append(path)
    return drawn


def _free_path(folder: Path, stem: str, taken: Sequence[Path]) -> Path:
    """``stem.png``, or the first of ``stem_2.png``, ... that is not taken."""
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_{number}.png"
    return path
