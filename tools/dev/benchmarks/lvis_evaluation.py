"""LVIS evaluation beside lvis-api and bare hotcoco: reading two files and evaluating them.

The files have the statistics of LVIS: 1,230 categories whose popularity falls off as a power law,
3.5 annotated and 9.4 verified absent categories and 12 instances per image, 300 detections per
image, four in ten of them near an instance. Each evaluator runs in processes of its own, in turns.
hotcoco uses all cores. The annotation cache is off.
"""

import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_utils
from side_by_side import (
    LVIS_CATEGORIES,
    NUMBERS_OF_CATEGORIES,
    Comparison,
    Point,
    Run,
    Target,
    compare_runs,
    held_memory,
    reported_by,
    start_of_peak,
)

PART = "LVIS evaluation"
HEIGHT, WIDTH = 480, 640
NUM_DETECTIONS = 300


def measure(quick: bool) -> list[Comparison]:
    """Compare the evaluators on boxes and on masks."""
    lvis_api = {"bbox": Target(ratio=80.0, memory_ratio=2.0), "segm": Target(ratio=3.0)}
    comparisons = []
    for iou_type, num_images in (("bbox", 5000), ("segm", 1000)):
        num_images = 100 if quick else num_images
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(folder, num_images, LVIS_CATEGORIES, iou_type)
            comparisons += compare_runs(
                PART,
                f"{num_images:,} images x {NUM_DETECTIONS} detections x {LVIS_CATEGORIES:,} "
                f"categories, {iou_type}",
                runner("ours", iou_type, files),
                {name: runner(name, iou_type, files) for name in ("lvis-api", "hotcoco")},
                {"lvis-api": lvis_api[iou_type], "hotcoco": Target(ratio=1 / 1.2)},
                repeats=1 if quick else 3,
            )
    return comparisons


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories, on 200 images."""
    points = []
    for number in NUMBERS_OF_CATEGORIES:
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(folder, 200, number, "bbox")
            for name in EVALUATORS:
                points.append(Point(PART, name, number, runner(name, "bbox", files)().wall))
    return points


def runner(name: str, iou_type: str, files: list[str]) -> Callable[[], Run]:
    """Evaluate in a process of its own, whose memory is measured."""
    return lambda: Run(**reported_by([sys.executable, __file__, name, iou_type, *files]))


def evaluate_here(name: str, iou_type: str, ann_file: str, results_file: str) -> dict:
    """Evaluate in this process; returns what it took."""
    run = EVALUATORS[name]()
    before, wall, cpu = start_of_peak(), time.perf_counter(), time.process_time()
    run(iou_type, ann_file, results_file)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "memory": held_memory("VmHWM") - before}


def load_ours() -> Callable:
    from mmdet_eql.evaluation import evaluate_files

    os.environ["MMDET_EQL_CACHE"] = "off"
    return lambda iou_type, *files: evaluate_files(*files, iou_type).metrics()


def load_peer(name: str) -> Callable:
    np.float = float  # lvis 0.5.3 uses it; NumPy 1.24 removed it
    peer = importlib.import_module(name)

    def run(iou_type: str, ann_file: str, results_file: str) -> None:
        truth = peer.LVIS(ann_file)
        peer.LVISEval(truth, peer.LVISResults(truth, results_file), iou_type).run()

    return run


EVALUATORS = {
    "ours": load_ours,
    "hotcoco": lambda: load_peer("hotcoco"),
    "lvis-api": lambda: load_peer("lvis"),
}


def make_files(folder: str, num_images: int, num_categories: int, iou_type: str) -> list[str]:
    """Write an annotation file and a result file; returns their paths."""
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, num_categories + 1)
    popularity /= popularity.sum()
    ids = np.arange(1, num_categories + 1)
    # As in LVIS v0.5 the most popular 26 % are frequent, the least popular 37 % rare.
    bounds = (np.array([0, 0.26, 0.63, 1]) * num_categories).astype(int)
    groups = np.repeat(list("fcr"), np.diff(bounds)).tolist()
    categories = [
        {"id": category_id, "name": f"category {category_id}", "frequency": group}
        for category_id, group in zip(ids.tolist(), groups, strict=True)
    ]
    images, annotations, results = [], [], []
    for image_id in range(1, num_images + 1):
        drawn = rng.choice(ids, size=min(13, num_categories), replace=False, p=popularity)
        present, absent = np.split(drawn, [min(1 + rng.poisson(2.5), len(drawn))])
        loose = present[rng.random(len(present)) < 0.05].tolist()
        image = {"id": image_id, "height": HEIGHT, "width": WIDTH, "file_name": f"{image_id}.jpg"}
        lists = {"neg_category_ids": absent.tolist(), "not_exhaustive_category_ids": loose}
        images.append(image | lists)
        labels = rng.choice(present, size=len(present) + rng.poisson(8.6))
        boxes = draw_boxes(rng, len(labels))
        for label, box in zip(labels.tolist(), boxes.tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label}
            shape = {"bbox": box, "area": box[2] * box[3], "segmentation": [outline(box)]}
            annotations.append(annotation | shape)

        near = rng.integers(len(boxes), size=int(0.4 * NUM_DETECTIONS))
        noise = rng.normal(0, 0.15, (len(near), 4)) * np.tile(boxes[near, 2:], 2)
        rest = NUM_DETECTIONS - len(near)
        found = (
            np.concatenate([np.abs(boxes[near] + noise), draw_boxes(rng, rest)])
            .astype(np.float32)
            .tolist()
        )
        labels = np.append(labels[near], rng.choice(ids, size=rest, p=popularity)).tolist()
        scores = rng.random(NUM_DETECTIONS).astype(np.float32).tolist()
        for label, box, score in zip(labels, found, scores, strict=True):
            record = {"image_id": image_id, "category_id": label, "score": score}
            if iou_type == "bbox":
                results.append(record | {"bbox": box})
            else:
                rle = mask_utils.merge(mask_utils.frPyObjects([outline(box)], HEIGHT, WIDTH))
                mask = {"size": rle["size"], "counts": rle["counts"].decode()}
                results.append(record | {"segmentation": mask})
    data = {"images": images, "annotations": annotations, "categories": categories}
    files = [os.path.join(folder, name) for name in ("annotations.json", "results.json")]
    for path, content in zip(files, (data, results), strict=True):
        with open(path, "w") as file:
            json.dump(content, file)
    return files


def draw_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes with a median area of 665 square pixels, as in LVIS: x, y, width, height."""
    sides = np.exp(rng.normal(np.log(26), 0.9, (number, 2))).clip(2, [WIDTH / 2, HEIGHT / 2])
    corners = rng.random((number, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def outline(box: list[float], num_points: int = 29) -> list[float]:
    """An ellipse with as many vertices as an LVIS polygon has on average."""
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    x = box[0] + box[2] * (1 + np.cos(angle)) / 2
    y = box[1] + box[3] * (1 + np.sin(angle)) / 2
    return np.stack([x, y], axis=1).round(2).ravel().tolist()


if __name__ == "__main__":
    print(json.dumps(evaluate_here(*sys.argv[1:])))
