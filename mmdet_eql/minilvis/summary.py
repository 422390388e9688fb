"""Statistics of a finished MiniLVIS set."""

import os

import numpy as np

from mmdet_eql.annotations import AnnotationColumns
from mmdet_eql.minilvis.folder import read_minilvis

GROUPS = ("r", "c", "f")


def summarize_minilvis(folder: str | os.PathLike) -> dict[str, dict[str, float | str]]:
    """Count what the annotation files of a finished set hold.

    Returns:
        dict: Of ``"train"`` and ``"val"``, the statistics by their names: numbers, or several in a
        string, such as the shares of the groups r / c / f, or least / median / greatest.

    Raises:
        UserError: If the folder holds no finished set.
    """
    marker, annotations = read_minilvis(folder)
    return {
        split: _statistics(columns, marker["num_objects"][split])
        for split, columns in annotations.items()
    }


def format_summary(summary: dict[str, dict[str, float | str]]) -> str:
    """Lay a summary out as a table: one line per statistic, one column per split."""
    lines = [f"{'':38}" + "".join(f"{split:>18}" for split in summary)]
    for name in next(iter(summary.values())):
        values = (statistics[name] for statistics in summary.values())
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in values)
        lines.append(f"{name:38}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _statistics(columns: AnnotationColumns, num_objects: int) -> dict[str, float | str]:
    num_images, num_annotations = columns.num_images, len(columns.category)
    num_categories = len(columns.category_id)
    group = np.array(columns.category_frequency)
    pairs = np.unique(columns.annotation_image * num_categories + columns.category)
    counts = np.sort(np.bincount(pairs % num_categories, minlength=num_categories)).tolist()
    negatives = group[columns.negative]
    return {
        "categories (r / c / f)": " / ".join(str((group == name).sum()) for name in GROUPS),
        "images": num_images,
        "images without annotations": int((np.diff(columns.annotation_start) == 0).sum()),
        "labelled images per category": f"{counts[0]} / {counts[len(counts) // 2]} / {counts[-1]}",
        "annotated instances per image": num_annotations / num_images,
        "labelled categories per image": len(pairs) / num_images,
        "negative categories per image": len(negatives) / num_images,
        "negatives (r / c / f) in %": " / ".join(
            f"{100 * (negatives == name).sum() / max(len(negatives), 1):.0f}" for name in GROUPS
        ),
        "not exhaustive categories per image": len(columns.not_exhaustive) / num_images,
        "unannotated objects in %": 100 * (1 - num_annotations / num_objects),
        "median instance area in px": np.sort(columns.area)[num_annotations // 2].item(),
    }
