"""Figures of a finished MiniLVIS set."""

import json
import os
from collections import Counter
from pathlib import Path

from mmdet_eql.minilvis.config import SPLITS
from mmdet_eql.minilvis.folder import annotation_path, read_marker
from mmdet_eql.utils.errors import UserError

GROUPS = ("r", "c", "f")


def summarize_minilvis(folder: str | os.PathLike) -> dict[str, dict[str, float]]:
    """Count what the annotation files hold.

    Args:
        folder (str | os.PathLike): Folder of a finished set.

    Returns:
        dict: Of ``"train"`` and ``"val"``, the figures by their names:

        - ``categories (r / c / f)``: number of categories per frequency group, as a string;
        - ``images``;
        - ``images without annotations``;
        - ``labelled images per category``: least, median and greatest number, as a string;
        - ``annotated instances per image``;
        - ``labelled categories per image``;
        - ``negative categories per image``;
        - ``negatives (r / c / f)``: shares of the frequency groups in them in %, as a string;
        - ``not exhaustive categories per image``;
        - ``unannotated objects``: share of the objects, in %;
        - ``median instance area``: px.

    Raises:
        UserError: If the folder holds no finished set.
    """
    marker = read_marker(folder)
    if marker is None:
        raise UserError(f"{folder}: holds no MiniLVIS set; make one first.")
    summary = {}
    for split in SPLITS:
        path = Path(folder) / annotation_path(split)
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        summary[split] = _figures(data, marker["num_objects"][split])
    return summary


def format_summary(summary: dict[str, dict[str, float]]) -> str:
    """Lay a summary out as a table.

    Args:
        summary (dict): What :func:`summarize_minilvis` returns.

    Returns:
        str: One line per figure, one column per split.
    """
    lines = [f"{'':38}" + "".join(f"{split:>18}" for split in summary)]
    for name in next(iter(summary.values())):
        values = (figures[name] for figures in summary.values())
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in values)
        lines.append(f"{name:38}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _figures(data: dict, num_objects: int) -> dict[str, float | int | str]:
    images, annotations = data["images"], data["annotations"]
    group = {category["id"]: category["frequency"] for category in data["categories"]}
    groups = Counter(group.values())
    pairs = {(record["image_id"], record["category_id"]) for record in annotations}
    per_category = Counter(dict.fromkeys(group, 0))
    per_category.update(category for _, category in pairs)
    counts = sorted(per_category.values())
    negatives = Counter(group[i] for image in images for i in image["neg_category_ids"])
    num_negatives = sum(negatives.values())
    areas = sorted(record["area"] for record in annotations)
    return {
        "categories (r / c / f)": " / ".join(str(groups[name]) for name in GROUPS),
        "images": len(images),
        "images without annotations": len(images) - len({image for image, _ in pairs}),
        "labelled images per category": f"{counts[0]} / {counts[len(counts) // 2]} / {counts[-1]}",
        "annotated instances per image": len(annotations) / len(images),
        "labelled categories per image": len(pairs) / len(images),
        "negative categories per image": num_negatives / len(images),
        "negatives (r / c / f) in %": " / ".join(
            f"{100 * negatives[name] / max(num_negatives, 1):.0f}" for name in GROUPS
        ),
        "not exhaustive categories per image": sum(
            len(image["not_exhaustive_category_ids"]) for image in images
        )
        / len(images),
        "unannotated objects in %": 100 * (1 - len(annotations) / num_objects),
        "median instance area in px": areas[len(areas) // 2],
    }
