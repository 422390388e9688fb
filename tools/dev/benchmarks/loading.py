"""Annotation files and what is made of them at the start, beside MMDetection's datasets.

LVIS v1    100,000 images of 12.7 polygons, 1,203 categories
V3Det      183,354 images of 7.4 boxes, 13,204 categories

(quick: a fortieth of the first). LVISFormatDataset loads a file without and with its cache,
MMDetection's dataset always in the same way, each in processes of its own and in turns. Time and
memory are those of loading, beyond the imports. Then samplers are set up, beside MMEngine's
ClassBalancedDataset and MMDetection's ClassAwareSampler, and items are read, which have to be the
same.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile

import msgspec
import numpy as np
from side_by_side import Comparison, Limit, Run, measured, reported_by

HEIGHT, WIDTH = 480, 640
#: Of each set: its images, categories and instances of an image, MMDetection's class.
SETS = {
    "LVIS v1": (100_000, 1203, 12.7, "LVISV1Dataset"),
    "V3Det": (183_354, 13_204, 7.4, "V3DetDataset"),
}
#: Drawn objects, of which a file is made.
NUM_OBJECTS = 5000
#: Items that are read and compared.
NUM_ITEMS = 2000


def measure(quick: bool) -> list[Comparison]:
    """Compare a first start, a start from the cache, samplers, and reading items."""
    comparisons = []
    for name in ["LVIS v1"] if quick else SETS:
        num_images, num_categories, per_image, _ = SETS[name]
        num_images //= 40 if quick else 1
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "annotations.json")
            masks = name == "LVIS v1"
            number = write_annotations(path, num_images, num_categories, per_image, masks)
            comparisons += measure_set(name, path, num_images, number, 1 if quick else 5)
    return comparisons


def measure_set(
    name: str, path: str, num_images: int, number: int, repeats: int
) -> list[Comparison]:
    """Compare all that is made of a file."""
    reports: dict[str, list[dict]] = {"first": [], "cached": [], "rival": []}
    for _ in range(repeats):
        shutil.rmtree(path + ".cache", ignore_errors=True)
        for way, of_way in reports.items():
            of_way.append(reported_by([sys.executable, __file__, name, way, path]))
    if len({report["items"] for of_way in reports.values() for report in of_way}) > 1:
        raise RuntimeError("the datasets give different items, or the samplers differ in length")
    size, text = f"{name}: {num_images:,} images, {number:,} instances", os.path.getsize(path)
    # Filtering needs all boxes, categories and sizes; a sampler the labels of all images.
    filtering, labels = 36 * number + 16 * num_images, 8 * (number + num_images)
    comparisons = []
    for what, way, quantity, target, num_bytes in (
        ("loading, first", "first", "load", 3, text),
        ("loading, from the cache", "cached", "load", 10, filtering),
        ("set-up of repeat factor sampling", "cached", "repeat", 20, labels),
        ("set-up of class-aware sampling", "cached", "class_aware", 10, labels),
        ("reading an item", "cached", "item", 1, text / num_images),
    ):
        runs = [[Run(**report[quantity]) for report in reports[key]] for key in (way, "rival")]
        row = ("start-up", f"{what}, {size}", SETS[name][-1], *runs, target, Limit(num_bytes))
        comparisons.append(Comparison(*row))
    return comparisons


def measure_here(name: str, way: str, path: str) -> dict:
    """Load a file in this process; return what that and the rest took, and a digest of items."""
    import mmdet.datasets
    from mmdet.datasets.samplers import ClassAwareSampler
    from mmengine.dataset import ClassBalancedDataset
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    from mmdet_eql.datasets import CategoryAwareSampler, LVISFormatDataset, RepeatFactorSampler

    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # samplers log what they make
    folder = os.path.dirname(path)
    options = dict(ann_file=path, data_prefix=dict(img=folder))
    options.update(filter_cfg=dict(filter_empty_gt=True, min_size=32))
    if way != "rival":
        kind, options["annotation_cache"] = LVISFormatDataset, path + ".cache"
    else:
        kind = getattr(mmdet.datasets, SETS[name][-1])
        with open(os.path.join(folder, "names.txt")) as file:
            options["metainfo"] = dict(classes=file.read().split("\n"))
        if name == "V3Det":
            options["label_file"] = file.name
    dataset, report = None, {}
    dataset, report["load"] = measured(lambda: kind(**options))
    indices = np.random.default_rng(0).integers(0, len(dataset), NUM_ITEMS).tolist()
    infos, item = measured(lambda: [dataset.get_data_info(index) for index in indices])
    report["item"] = dict(wall=item["wall"] / NUM_ITEMS, cpu=item["cpu"] / NUM_ITEMS)
    if way == "rival":
        repeat, class_aware = ClassBalancedDataset, ClassAwareSampler
    else:
        repeat, class_aware = RepeatFactorSampler, CategoryAwareSampler
    sampler, report["repeat"] = measured(lambda: repeat(dataset, 1e-3))
    # MMEngine's dataset rounds each repeat factor up.
    length = len(sampler) if way == "rival" else int(np.ceil(sampler.repeat_factors).sum())
    report["class_aware"] = measured(lambda: class_aware(dataset, seed=0))[1]
    for info in infos:
        for field in ("positive_labels", "negative_labels"):
            info.pop(field, None)
    text = json.dumps([length, len(dataset), infos], sort_keys=True)
    return report | {"items": hashlib.sha256(text.encode()).hexdigest()}


# --- the files ------------------------------------------------------------------------------------


def write_annotations(
    path: str, num_images: int, num_categories: int, per_image: float, masks: bool
) -> int:
    """Write an annotation file with statistics of LVIS; return its number of instances.

    The popularity of categories falls off as a power law. An image has 3.3 of them, and with
    ``masks`` some that are verified absent, as in LVIS; without, boxes alone, as in V3Det. Beside
    the file are the names of the categories, and a first image without content.
    """
    rng, folder = np.random.default_rng(0), os.path.dirname(path)
    ids = np.arange(1, num_categories + 1)
    # As in LVIS v0.5 the most popular 26 % are frequent, the least popular 37 % rare.
    groups = np.array(list("fcr"))[np.digitize(ids / num_categories, [0.26, 0.63])].tolist()
    categories = [
        {"id": number, "name": f"category {number}", "frequency": group}
        for number, group in zip(ids.tolist(), groups, strict=True)
    ]
    drawn = rng.choice(ids, (num_images, 13), p=ids**-1.1 / (ids**-1.1).sum())
    num_drawn = 1 + rng.poisson(2.5, num_images).clip(max=11)
    present = [np.unique(row[:count]) for row, count in zip(drawn, num_drawn, strict=True)]
    labels = [rng.choice(one, len(one) + rng.poisson(per_image - 3.3)) for one in present]
    shapes = []
    for box in draw_boxes(rng, NUM_OBJECTS).tolist():
        shape = {"bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0}
        if masks:
            shape["segmentation"] = [outline(box, max(3, rng.poisson(15)))]
        shapes.append(shape)
    images, annotations = [], []
    for number, (here, of_image) in enumerate(zip(present, labels, strict=True), start=1):
        name = f"train2017/{number:012}.jpg"
        image = {"id": number, "height": HEIGHT, "width": WIDTH}
        if masks:
            image["coco_url"] = f"http://images.cocodataset.org/{name}"
            image["neg_category_ids"] = np.setdiff1d(drawn[number - 1], here).tolist()
            image["not_exhaustive_category_ids"] = here[: number % 2].tolist()
        else:
            image["file_name"] = name
        images.append(image)
        for label in of_image.tolist():
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": label}
            annotations.append(ids | shapes[rng.integers(NUM_OBJECTS)])
    content = {"categories": categories, "images": images, "annotations": annotations}
    write_json(path, content)
    with open(os.path.join(folder, "names.txt"), "w") as file:
        file.write("\n".join(category["name"] for category in categories))
    os.makedirs(os.path.join(folder, "train2017"), exist_ok=True)
    open(os.path.join(folder, "train2017", f"{1:012}.jpg"), "w").close()
    return len(annotations)


def write_json(path: str, content: object) -> None:
    """Write a file with the spaces that :mod:`json` writes, in less time."""
    with open(path, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=0))


def draw_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes with a median area of 665 square pixels, as in LVIS: x, y, width, height."""
    sides = np.exp(rng.normal(np.log(26), 0.9, (number, 2))).clip(2, [WIDTH / 2, HEIGHT / 2])
    corners = rng.random((number, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def outline(box: list[float], num_points: int) -> list[float]:
    """An ellipse in a box, with two decimals as in LVIS."""
    angle = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    x = box[0] + box[2] * (1 + np.cos(angle)) / 2
    y = box[1] + box[3] * (1 + np.sin(angle)) / 2
    return np.stack([x, y], axis=1).round(2).ravel().tolist()


if __name__ == "__main__":  # as measure_set() calls it
    print(json.dumps(measure_here(*sys.argv[1:])))
