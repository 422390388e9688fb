"""Loading an annotation file of the size of LVIS v1, beside MMDetection's dataset.

The file has 100,000 images (quick: 5,000), 12.7 instances per image, each a polygon of about 15
points, in 1,203 categories whose popularity falls off as a power law. LVISFormatDataset loads it
without and with its cache, and LVISV1Dataset always in the same way, each in processes of its own
and in turns. Time and memory are those of loading, beyond the imports. All have to give the same
items, of which some are compared; reading these is timed, too.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time

import numpy as np
from side_by_side import Comparison, Run, Target, held_memory, reported_by, start_of_peak

PART = "start-up"
RIVAL = "LVISV1Dataset"
NUM_CATEGORIES = 1203
INSTANCES_PER_IMAGE = 12.7
POINTS_PER_POLYGON = 15
HEIGHT, WIDTH = 480, 640
#: Drawn objects, of which the file is made.
NUM_OBJECTS = 5000
#: Items that are read and compared.
NUM_ITEMS = 2000


def measure(quick: bool) -> list[Comparison]:
    """Compare a first start, a start from the cache, and reading items."""
    num_images = 5_000 if quick else 100_000
    reports = {"first": [], "cached": [], RIVAL: []}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "annotations.json")
        num_instances = write_annotations(path, num_images)
        cache = os.path.join(folder, "cache")
        for _ in range(2 if quick else 5):
            shutil.rmtree(cache, ignore_errors=True)
            for name, of_name in reports.items():
                of_name.append(reported_by([sys.executable, __file__, name, path, cache]))
    if len({report["items"] for of_name in reports.values() for report in of_name}) > 1:
        raise RuntimeError("the datasets give different items")

    def comparison(what: str, name: str, target: Target, quantity: str = "load") -> Comparison:
        ours, theirs = ([Run(**r[quantity]) for r in reports[key]] for key in (name, RIVAL))
        return Comparison(PART, what, RIVAL, ours, theirs, target)

    size = f"{num_images:,} images, {num_instances:,} instances"
    return [
        comparison(f"first, {size}", "first", Target(ratio=3.0, memory_ratio=2.0)),
        comparison("from the cache", "cached", Target(ratio=10.0)),
        comparison("reading an item afterwards", "cached", Target(), "item"),
    ]


def measure_here(name: str, path: str, cache: str) -> dict:
    """Load a dataset in this process.

    Returns:
        dict: What loading took, what reading an item took, and a digest of the items.
    """
    from mmdet.datasets import LVISV1Dataset

    from mmdet_eql.datasets import LVISFormatDataset

    options = dict(ann_file=path, data_prefix=dict(img=os.path.dirname(path)))
    options.update(filter_cfg=dict(filter_empty_gt=True, min_size=32))
    before, start = start_of_peak(), clocks()
    if name == RIVAL:
        dataset = LVISV1Dataset(**options, metainfo=dict(classes=category_names()))
    else:
        dataset = LVISFormatDataset(**options, annotation_cache=cache)
    wall, cpu = clocks() - start
    load = dict(wall=wall, cpu=cpu, memory=held_memory("VmHWM") - before)

    indices = np.random.default_rng(0).integers(0, len(dataset), NUM_ITEMS).tolist()
    start = clocks()
    infos = [dataset.get_data_info(index) for index in indices]
    wall, cpu = (clocks() - start) / NUM_ITEMS
    item = dict(wall=wall, cpu=cpu)
    for info in infos:
        for field in ("positive_labels", "negative_labels"):
            info.pop(field, None)
    text = json.dumps([len(dataset), infos], sort_keys=True)
    return dict(load=load, item=item, items=hashlib.sha256(text.encode()).hexdigest())


def clocks() -> np.ndarray:
    """Wall-clock and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def category_names() -> list[str]:
    """Names by label."""
    return [f"category {number}" for number in range(1, NUM_CATEGORIES + 1)]


def write_annotations(path: str, num_images: int) -> int:
    """Write an annotation file and, beside it, a first image without content.

    Args:
        path (str): File to write.
        num_images (int): Number of images.

    Returns:
        int: Number of instances.
    """
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, NUM_CATEGORIES + 1) ** 1.2
    popularity /= popularity.sum()
    objects = [draw_object(rng) for _ in range(NUM_OBJECTS)]
    categories = [
        {"id": number, "name": name, "frequency": "f", "synonyms": [name], "def": "an object"}
        for number, name in enumerate(category_names(), 1)
    ]
    with open(path, "w") as file:
        file.write(f'{{"info": {{"version": "v1"}}, "categories": {json.dumps(categories)}')
        file.write(', "images": [')
        for image_id in range(1, num_images + 1):
            absent = (rng.choice(NUM_CATEGORIES, 9, replace=False) + 1).tolist()
            record = {
                "id": image_id,
                "height": HEIGHT,
                "width": WIDTH,
                "license": 4,
                "date_captured": "2013-11-14 17:02:52",
                "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012}.jpg",
                "flickr_url": f"http://farm7.staticflickr.com/6116/{image_id}_z.jpg",
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": absent[:2],
            }
            file.write((", " if image_id > 1 else "") + json.dumps(record))
        file.write('], "annotations": [')
        number = 0
        counts = rng.poisson(INSTANCES_PER_IMAGE, num_images).tolist()
        for image_id, count in enumerate(counts, 1):
            labels = (rng.choice(NUM_CATEGORIES, count, p=popularity) + 1).tolist()
            for label, drawn in zip(labels, rng.integers(NUM_OBJECTS, size=count), strict=True):
                file.write(", " if number else "")
                number += 1
                file.write(
                    f'{{"id": {number}, "image_id": {image_id}, "category_id": {label}, '
                    f"{objects[drawn]}}}"
                )
        file.write("]}")
    folder = os.path.join(os.path.dirname(path), "train2017")
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(folder, f"{1:012}.jpg"), "w").close()
    return number


def draw_object(rng: np.random.Generator) -> str:
    """Box, area and polygon of an annotation, in JSON without braces."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, max(3, rng.poisson(POINTS_PER_POLYGON))))
    radius = rng.uniform(4, 60)
    centre = rng.uniform(60, [WIDTH - 60, HEIGHT - 60])
    # With two decimals, as in LVIS.
    points = (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).round(2)
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = (high - low).round(2).tolist()
    record = {
        "bbox": [*low.tolist(), width, height],
        "area": round(width * height, 2),
        "segmentation": [points.ravel().tolist()],
    }
    return json.dumps(record)[1:-1]


if __name__ == "__main__":  # as measure() calls it
    print(json.dumps(measure_here(*sys.argv[1:])))
