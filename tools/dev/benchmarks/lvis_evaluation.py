"""LVIS evaluation beside lvis-api and bare hotcoco: reading two files and evaluating them.

The annotations are those of loading.py, with the 1,230 categories of LVIS v0.5; an image has 300
detections, four in ten of them near an instance. Each evaluator runs in processes of its own, in
turns; lvis-api is left out where it is not installed. hotcoco uses all cores. The annotation cache
is off. Growth, once each, is that of boxes over images, detections and categories up to V3Det's.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec

import numpy as np
import pycocotools.mask as mask_utils
from loading import HEIGHT, WIDTH, draw_boxes, outline, write_annotations, write_json
from side_by_side import (
    LVIS_CATEGORIES,
    Comparison,
    Limit,
    Run,
    compare_runs,
    measured,
    reported_by,
)

#: The modules of the rivals.
RIVALS = {"hotcoco": "hotcoco", "lvis-api": "lvis"}
NUM_DETECTIONS = 300
#: Where growth is measured: at these sizes, of which one is changed.
GROWTH_BASE = {"images": 200, "detections": 100, "categories": LVIS_CATEGORIES}
GROWTH = {
    "images": (50, 200, 800),
    "detections": (30, 100, 300),
    "categories": (80, 400, LVIS_CATEGORIES, 13_204),
}


def measure(quick: bool) -> list[Comparison]:
    """Compare the evaluators on boxes and on masks, and their growth on boxes."""
    comparisons = []
    for iou_type, num_images, least in (("bbox", 5000, 80), ("segm", 1000, 3))[: 2 - quick]:
        counts = (100 if quick else num_images, NUM_DETECTIONS, LVIS_CATEGORIES)
        targets = {"lvis-api": least, "hotcoco": 1 / 1.2}
        comparisons += compare_evaluators(iou_type, counts, targets, 1 if quick else 3)
    for axis, sizes in {} if quick else GROWTH.items():
        for size in sizes:
            counts = {**GROWTH_BASE, axis: size}.values()
            comparisons += compare_evaluators("bbox", counts, {}, 1, size=(axis, size))
    return comparisons


def compare_evaluators(
    iou_type: str, counts: Iterable[int], targets: Mapping[str, float], repeats: int, **of_row
) -> list[Comparison]:
    """Compare those that are installed, at numbers of images, detections and categories."""
    num_images, num_detections, num_categories = counts
    names = ["ours", *(name for name, module in RIVALS.items() if find_spec(module))]
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(folder, num_images, iou_type, num_detections, num_categories)
        return compare_runs(
            "LVIS evaluation",
            f"{num_images:,} images x {num_detections} detections x {num_categories:,} "
            f"categories, {iou_type}",
            {name: partial(evaluate, name, iou_type, *files) for name in names},
            targets,
            repeats,
            limit=Limit(sum(map(os.path.getsize, files))),  # both are read
            **of_row,
        )


def evaluate(*arguments: str) -> Run:
    """Evaluate in a process of its own, whose memory is measured."""
    return Run(**reported_by([sys.executable, __file__, *arguments]))


def load(name: str) -> Callable:
    """Import an evaluator, which takes the type of IoU, an annotation file and a result file."""
    if name == "ours":
        from mmdet_eql.evaluation import compare_files

        return lambda iou_type, ann_file, path: compare_files(ann_file, [path], iou_type)
    np.float = float  # lvis 0.5.3 uses it; NumPy 1.24 removed it
    peer = importlib.import_module(RIVALS[name])

    def run(iou_type: str, ann_file: str, results_file: str) -> None:
        truth = peer.LVIS(ann_file)
        peer.LVISEval(truth, peer.LVISResults(truth, results_file), iou_type).run()

    return run


def make_files(
    folder: str, num_images: int, iou_type: str, num_detections: int, num_categories: int
) -> list[str]:
    """Write an annotation file and a result file; return their paths."""
    from mmdet_eql.annotations import read_annotations

    files = [os.path.join(folder, name) for name in ("annotations.json", "results.json")]
    write_annotations(files[0], num_images, num_categories, per_image=12, masks=True)
    columns = read_annotations(files[0], cache=False)
    rng, results = np.random.default_rng(0), []
    for image, image_id in enumerate(columns.image_id.tolist()):
        here = columns.annotations(image)
        labels, boxes = columns.category_id[columns.category[here]], columns.box[here]
        near = rng.integers(len(boxes), size=int(0.4 * num_detections))
        noise = rng.normal(0, 0.15, (len(near), 4)) * np.tile(boxes[near, 2:], 2)
        rest = num_detections - len(near)
        found = np.concatenate([np.abs(boxes[near] + noise), draw_boxes(rng, rest)])
        labels = np.append(labels[near], rng.integers(1, num_categories + 1, rest)).tolist()
        scores = rng.random(num_detections).astype(np.float32).tolist()
        found = found.astype(np.float32).tolist()
        for label, box, score in zip(labels, found, scores, strict=True):
            record = {"image_id": image_id, "category_id": label, "score": score}
            if iou_type == "bbox":
                record["bbox"] = box
            else:
                polygon = outline(box, num_points=29)
                rle = mask_utils.merge(mask_utils.frPyObjects([polygon], HEIGHT, WIDTH))
                record["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            results.append(record)
    write_json(files[1], results)
    return files


if __name__ == "__main__":
    os.environ.update(MMDET_EQL_CACHE="off", MMDET_EQL_REGISTER="off")  # the latter as evaluate.py
    name, *arguments = sys.argv[1:]
    run = load(name)
    print(json.dumps(measured(lambda: run(*arguments))[1]))
