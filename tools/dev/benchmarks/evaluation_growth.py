"""Time of evaluation over the number of images, of detections and of categories, up to V3Det's.

    python tools/dev/benchmarks/evaluation_growth.py growth.json growth.png

Boxes of 200 images x 100 detections x 1,230 categories, and more or fewer of one of them, by the
evaluators of lvis_evaluation.py. One is left out at larger sizes once it takes 20 seconds of
processor time.
"""

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lvis_evaluation import EVALUATORS, draw_boxes, runner
from matplotlib.figure import Figure

from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure
from mmdet_eql.utils.files import write_text

BASE = {"images": 200, "detections": 100, "categories": 1230}
SIZES = {
    "images": (50, 200, 800),
    "detections": (30, 100, 300),
    "categories": (80, 400, 1230, 13_204),
}
LONGEST = 20.0  # seconds of processor time


def measure() -> list[dict]:
    """Return a row for each size and evaluator."""
    rows, known = [], {}
    for axis, sizes in SIZES.items():
        names = set(EVALUATORS)
        for size in sizes:
            case = {**BASE, axis: size}
            with tempfile.TemporaryDirectory() as folder:
                files = write_files(Path(folder), **case)
                for name in sorted(names):
                    key = (name, *case.values())
                    if key not in known:
                        known[key] = asdict(runner(name, "bbox", files)())
                    rows.append({"axis": axis, **case, "evaluator": name, **known[key]})
                    print(rows[-1], flush=True)
                    if known[key]["cpu"] > LONGEST:
                        names.remove(name)
    return rows


def write_files(folder: Path, images: int, detections: int, categories: int) -> list[str]:
    """Write an annotation file and a result file, ``detections`` in each image; return the paths.

    An image has 12 objects of 4 categories, and 9 categories that are verified absent; the
    popularity of categories falls off as a power law. Half of the detections are near an object.
    """
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, categories + 1)
    popularity /= popularity.sum()
    records, annotations, results = [], [], []
    for image in range(1, images + 1):
        drawn = 1 + rng.choice(categories, size=13, replace=False, p=popularity)
        names = {"neg_category_ids": drawn[4:].tolist(), "not_exhaustive_category_ids": []}
        records.append({"id": image, "height": 480, "width": 640, "file_name": "a", **names})
        labels, boxes = rng.choice(drawn[:4], size=12), draw_boxes(rng, 12)
        near = rng.integers(12, size=detections // 2)
        moved = boxes[near] + rng.normal(0, 3, (len(near), 4))
        found = np.concatenate([np.abs(moved), draw_boxes(rng, detections - len(near))])
        guessed = 1 + rng.choice(categories, size=detections - len(near), p=popularity)
        found_as = np.append(labels[near], guessed)
        for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
            record = {"id": len(annotations) + 1, "image_id": image, "category_id": label}
            annotations.append({**record, "bbox": box, "area": box[2] * box[3]})
        for label, box, score in zip(found_as, found, rng.random(detections), strict=True):
            record = {"image_id": image, "category_id": int(label), "bbox": box.tolist()}
            results.append({**record, "score": score})
    kinds = [
        {"id": one, "name": str(one), "frequency": "rcf"[one % 3]}
        for one in range(1, categories + 1)
    ]
    data = {"images": records, "annotations": annotations, "categories": kinds}
    paths = [folder / "annotations.json", folder / "results.json"]
    for path, content in zip(paths, (data, results), strict=True):
        path.write_text(json.dumps(content))
    return list(map(str, paths))


def plot(rows: list[dict], path: str) -> None:
    """Draw processor time over each number into one PNG, on logarithmic axes."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(SIZES), sharey=True), SIZES, strict=True):
        curves = defaultdict(list)
        for row in rows:
            if row["axis"] == axis:
                curves[row["evaluator"]].append((row[axis], row["cpu"]))
        for name, colour, marker in zip(EVALUATORS, RUN_COLOURS, RUN_MARKERS, strict=False):
            axes.plot(*zip(*curves[name], strict=True), color=colour, marker=marker, label=name)
        fixed = " x ".join(f"{number:,} {name}" for name, number in BASE.items() if name != axis)
        axes.set(xscale="log", yscale="log", title=fixed, xlabel=axis)
        axes.set_xticks(SIZES[axis], [f"{size:,}" for size in SIZES[axis]], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(True, which="major", alpha=0.3)
    figure.axes[0].set_ylabel("seconds of processor time")
    figure.axes[0].legend(frameon=False, fontsize=9)
    save_figure(figure, path, dpi=120)


if __name__ == "__main__":
    measured = measure()
    write_text(sys.argv[1], json.dumps(measured, indent=1) + "\n")
    plot(measured, sys.argv[2])
