"""Time and memory of LVIS evaluation, beside lvis-api and faster-coco-eval.

    python tools/dev/benchmarks/lvis_evaluation.py                 # 5,000 images, as LVIS v0.5 val
    python tools/dev/benchmarks/lvis_evaluation.py --quick         # 100 images, under a minute
    python tools/dev/benchmarks/lvis_evaluation.py --iou-type segm --evaluators package lvis-api

An annotation file and a result file with the statistics of LVIS are made first: 1,230 categories
whose popularity falls off as a power law, 3.5 annotated and 9.4 verified absent categories and 12
instances per image, 300 detections per image, four in ten of them near an instance. Every
evaluator then reads and evaluates the same two files in processes of its own, in turns. The table
gives the median and the range over the runs, and ratios to the package; processor time is the
steadier measure where others use the machine. Memory is the most that was held beyond the imports
(read from /proc: Linux only). lvis-api keeps something for every image and category: the full size
takes it several gigabytes and minutes.

lvis-api 0.5.3 writes ``np.float``, which NumPy 1.24 removed; that is mended here.
faster-coco-eval is left out unless it is installed (``pip install faster-coco-eval``).
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_utils
from side_by_side import (
    LVIS_CATEGORIES,
    NUMBERS_OF_CATEGORIES,
    Absent,
    Comparison,
    Point,
    Run,
    Target,
    compare_runs,
    held_memory,
    reported_by,
    start_of_peak,
)

from mmdet_eql.utils.errors import UserError, exit_on_user_error

PART = "LVIS evaluation"
EVALUATORS = {"package": "mmdet_eql", "lvis-api": "lvis", "faster-coco-eval": "faster_coco_eval"}
BOX_TARGETS = {
    "lvis-api": Target(ratio=10.0, memory_ratio=2.0),
    "faster-coco-eval": Target(ratio=4.0, memory_ratio=2.0),
}
MASK_TARGETS = {"lvis-api": Target(ratio=3.0)}
HEIGHT, WIDTH = 480, 640


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000, help="images (default: %(default)s)")
    parser.add_argument(
        "--detections", type=int, default=300, help="detections per image (default: %(default)s)"
    )
    parser.add_argument(
        "--categories", type=int, default=1230, help="categories (default: %(default)s)"
    )
    parser.add_argument(
        "--iou-type", choices=("bbox", "segm"), default="bbox", help="default: %(default)s"
    )
    parser.add_argument(
        "--evaluators",
        nargs="+",
        choices=EVALUATORS,
        default=list(EVALUATORS),
        metavar="NAME",
        help=f"which to run, among {', '.join(EVALUATORS)} (default: all that are installed)",
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="100 images, whatever --images says")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    # How this script calls itself.
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("images", "detections", "categories", "runs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 1.")
    if args.quick:
        args.images = 100
    return args


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.measure:
        print(json.dumps(evaluate_files(*args.measure, args.iou_type)))
        return
    evaluators = [name for name in args.evaluators if is_installed(name)]
    for name in set(args.evaluators) - set(evaluators):
        print(f"{name} is not installed; left out.")
    print(
        f"{args.images:,} images x {args.detections} detections x {args.categories:,} categories, "
        f"{args.iou_type}, {args.runs} runs",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(folder, args)
        runs = {name: [] for name in evaluators}
        for _ in range(args.runs):
            for name in evaluators:
                runs[name].append(measure_in_process(name, files, args.iou_type))
                print(f"  {name}: {describe(runs[name][-1])}", flush=True)
    print_table(runs)


# --- measuring ------------------------------------------------------------------------------------


def measure(quick: bool) -> list[Comparison]:
    """Compare the package with the evaluators that are installed, by boxes and by masks."""
    repeats = 2 if quick else 5
    boxes = compare_evaluators("bbox", 100 if quick else 5000, BOX_TARGETS, repeats)
    return boxes + compare_evaluators("segm", 100 if quick else 1000, MASK_TARGETS, repeats)


def compare_evaluators(
    iou_type: str, num_images: int, targets: dict[str, Target], repeats: int
) -> list[Comparison]:
    """Compare the package with those evaluators that have a target, on files made for it."""
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(folder, sizes_of_files(num_images, LVIS_CATEGORIES, iou_type))

        def runner(name: str) -> Callable[[], Run]:
            return lambda: as_run(measure_in_process(name, files, iou_type))

        return compare_runs(
            PART,
            f"{num_images:,} images x 300 detections x {LVIS_CATEGORIES:,} categories, "
            + ("boxes" if iou_type == "bbox" else "masks"),
            runner("package"),
            {
                name: runner(name) if is_installed(name) else Absent("not installed")
                for name in targets
            },
            targets,
            repeats,
        )


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories, on 200 images."""
    names = [name for name in EVALUATORS if is_installed(name)]
    points = []
    for number in NUMBERS_OF_CATEGORIES:
        sizes = sizes_of_files(200, number)
        with tempfile.TemporaryDirectory() as folder:
            files = make_files(folder, sizes)
            for name in names:
                runs = [
                    measure_in_process(name, files, "bbox")["total"]
                    for _ in range(1 if quick else 3)
                ]
                name = "ours" if name == "package" else name
                points.append(Point(PART, name, number, statistics.median(runs)))
    return points


def sizes_of_files(
    num_images: int, num_categories: int, iou_type: str = "bbox"
) -> argparse.Namespace:
    return argparse.Namespace(
        images=num_images, detections=300, categories=num_categories, iou_type=iou_type, seed=0
    )


def is_installed(evaluator: str) -> bool:
    return importlib.util.find_spec(EVALUATORS[evaluator]) is not None


def as_run(report: dict) -> Run:
    return Run(report["total"], report["cpu"], report["memory"])


def measure_in_process(name: str, files: tuple[str, str], iou_type: str) -> dict:
    """Memory is that of a process, so each measurement has its own."""
    return reported_by(
        [sys.executable, __file__, "--iou-type", iou_type, "--measure", name, *files]
    )


def evaluate_files(name: str, ann_file: str, results_file: str, iou_type: str) -> dict:
    """Evaluate two files.

    Returns:
        dict: Seconds to read, to evaluate and in all, processor time in seconds, memory in MiB, AP.
    """
    evaluator = {
        "package": run_package,
        "lvis-api": run_lvis_api,
        "faster-coco-eval": run_faster_coco_eval,
    }[name]
    steps = evaluator(ann_file, results_file, iou_type)
    next(steps)
    before = start_of_peak()
    start, cpu = time.perf_counter(), time.process_time()
    next(steps)
    read = time.perf_counter()
    ap = next(steps)
    end = time.perf_counter()
    return {
        "read": read - start,
        "evaluate": end - read,
        "total": end - start,
        "cpu": time.process_time() - cpu,
        "memory": held_memory("VmHWM") - before,
        "AP": ap,
    }


def run_package(ann_file, results_file, iou_type):
    from mmdet_eql.evaluation import evaluate_detections, read_ground_truth, read_results

    yield "imported"
    truth = read_ground_truth(ann_file, with_masks=iou_type == "segm")
    detections = read_results(results_file, truth, iou_type)
    yield "read"
    yield evaluate_detections(truth, detections, iou_type).figures()["AP"]


def run_lvis_api(ann_file, results_file, iou_type):
    from lvis import LVIS, LVISEval, LVISResults

    np.float = float
    yield "imported"
    truth = LVIS(ann_file)
    detections = LVISResults(truth, results_file)
    yield "read"
    evaluation = LVISEval(truth, detections, iou_type)
    evaluation.run()
    yield float(evaluation.results["AP"])


def run_faster_coco_eval(ann_file, results_file, iou_type):
    from faster_coco_eval import COCO, COCOeval_faster

    yield "imported"
    truth = COCO(ann_file)
    detections = truth.loadRes(results_file)
    yield "read"
    evaluation = COCOeval_faster(truth, detections, iou_type, lvis_style=True)
    evaluation.params.maxDets = [300]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    yield float(evaluation.stats_as_dict["AP_all"])


def describe(run: dict) -> str:
    return (
        f"{run['total']:.2f} s ({run['read']:.2f} read + {run['evaluate']:.2f} evaluate), "
        f"{run['memory']:,.0f} MiB, AP {run['AP']:.9f}"
    )


def print_table(runs: dict[str, list[dict]]) -> None:
    quantities = {"read": "read (s)", "evaluate": "evaluate (s)", "total": "total (s)"}
    quantities.update(cpu="processor (s)", memory="memory (MiB)")
    rows = [["", *quantities.values()]]
    for name, of_name in runs.items():
        rows.append(
            [name, *(spread([run[quantity] for run in of_name]) for quantity in quantities)]
        )
    package = runs.get("package")
    for name, of_name in runs.items() if package else ():
        if name != "package":
            pairs = list(zip(of_name, package, strict=True))
            cells = (
                spread([a[quantity] / b[quantity] for a, b in pairs]) for quantity in quantities
            )
            rows.append([f"{name} : package", *cells])
    for row in rows:
        print(f"\n{row[0]:27}" + "".join(f"{cell:>27}" for cell in row[1:]), end="")
    print()


def spread(values: list[float]) -> str:
    digits = 0 if min(values) >= 100 else 2
    low, median, high = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{median} ({low} to {high})"


# --- the files ------------------------------------------------------------------------------------


def make_files(folder: str, args: argparse.Namespace) -> tuple[str, str]:
    rng = np.random.default_rng(args.seed)
    popularity = 1 / np.arange(1, args.categories + 1)
    popularity /= popularity.sum()
    category_ids = np.arange(1, args.categories + 1)
    # As in LVIS v0.5 the most popular 26 % are frequent, the least popular 37 % rare.
    bounds = np.array([0, 0.26, 0.63, 1]) * args.categories
    groups = np.repeat(["f", "c", "r"], np.diff(bounds.astype(int)))
    data = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": int(category_id), "name": f"category {category_id}", "frequency": str(group)}
            for category_id, group in zip(category_ids, groups, strict=True)
        ],
    }
    results_file = os.path.join(folder, "results.json")
    with open(results_file, "w") as file:
        separator = "["
        for image_id in range(1, args.images + 1):
            drawn = rng.choice(
                category_ids, size=min(13, args.categories), replace=False, p=popularity
            )
            present, absent = np.split(drawn, [min(1 + rng.poisson(2.5), len(drawn))])
            categories = rng.choice(present, size=len(present) + rng.poisson(8.6))
            boxes = draw_boxes(rng, len(categories))
            data["images"].append(
                {
                    "id": image_id,
                    "height": HEIGHT,
                    "width": WIDTH,
                    "file_name": f"{image_id}.jpg",
                    "neg_category_ids": absent.tolist(),
                    "not_exhaustive_category_ids": present[
                        rng.random(len(present)) < 0.05
                    ].tolist(),
                }
            )
            for category, box in zip(categories.tolist(), boxes.tolist(), strict=True):
                data["annotations"].append(
                    {
                        "id": len(data["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "segmentation": [outline(box)],
                    }
                )
            records = draw_detections(
                rng, image_id, categories, boxes, category_ids, popularity, args
            )
            file.write(separator + json.dumps(records)[1:-1])
            separator = ", "
        file.write("]")
    ann_file = os.path.join(folder, "annotations.json")
    with open(ann_file, "w") as file:
        json.dump(data, file)
    return ann_file, results_file


def draw_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes with a median area of 665 square pixels, as in LVIS: x, y, width, height."""
    sides = np.exp(rng.normal(np.log(26), 0.9, (number, 2))).clip(2, [WIDTH / 2, HEIGHT / 2])
    corners = rng.random((number, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def draw_detections(rng, image_id, categories, boxes, category_ids, popularity, args) -> list[dict]:
    near = rng.integers(len(boxes), size=int(0.4 * args.detections))
    noise = rng.normal(0, 0.15, (len(near), 4)) * np.tile(boxes[near, 2:], 2)
    found = np.abs(boxes[near] + noise)
    rest = args.detections - len(near)
    boxes = np.concatenate([found, draw_boxes(rng, rest)]).astype(np.float32).astype(float)
    labels = np.concatenate([categories[near], rng.choice(category_ids, size=rest, p=popularity)])
    scores = rng.random(args.detections).astype(np.float32).astype(float)
    records = []
    for label, box, score in zip(labels.tolist(), boxes.tolist(), scores.tolist(), strict=True):
        record = {"image_id": image_id, "category_id": label}
        if args.iou_type == "bbox":
            record["bbox"] = box
        else:
            rle = mask_utils.merge(mask_utils.frPyObjects([outline(box)], HEIGHT, WIDTH))
            record["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        records.append({**record, "score": score})
    return records


def outline(box: list[float], num_points: int = 29) -> list[float]:
    """An ellipse with as many vertices as an LVIS polygon has on average."""
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    x = box[0] + box[2] * (1 + np.cos(angle)) / 2
    y = box[1] + box[3] * (1 + np.sin(angle)) / 2
    return np.stack([x, y], axis=1).round(2).ravel().tolist()


if __name__ == "__main__":
    main()
