"""Random combinations of what is odd in files: ground truth given as detections has an AP of 1."""

import json
import random

import numpy as np
import pytest

from mmdet_eql.annotations import read_annotations
from mmdet_eql.annotations.data_report import report_data
from mmdet_eql.annotations.dataset_annotations import DatasetAnnotations
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.lvis_evaluation import evaluate_detections
from mmdet_eql.utils.errors import UserError
from tests.annotations.own_files import HEIGHT, WIDTH, by_script, uncompressed_rle

NUM_IMAGES = 2


def small() -> str:
    data = by_script()
    data["images"] = data["images"][:NUM_IMAGES]
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] <= NUM_IMAGES]
    return json.dumps(data)


BASE = small()


def annotations(field, *values):
    """Set a field of all or some annotations, or remove it by the value ``...``."""

    def edit(data, rng):
        chosen = data["annotations"]
        if rng.random() < 0.6:
            chosen = rng.sample(chosen, rng.randint(1, 9))
        for annotation in chosen:
            value = rng.choice(values)
            if value is ...:
                annotation.pop(field, None)
            else:
                annotation[field] = value(annotation) if callable(value) else value

    return edit


def images(**values):
    def edit(data, rng):
        for image in data["images"]:
            image.update(values)

    return edit


def floats(data, rng):
    for table, fields in (
        ("images", ("id", "height", "width")),
        ("annotations", ("id", "image_id", "category_id")),
        ("categories", ("id",)),
    ):
        for record in data[table]:
            for field in fields:
                record[field] = float(record[field])


def other_ids(data, rng):
    new = rng.sample(range(100), 3)
    for annotation in data["annotations"]:
        annotation["category_id"] = new[int(annotation["category_id"]) - 1]
    for category, number in zip(data["categories"], new, strict=True):
        category["id"] = number
    rng.shuffle(data["categories"])


def root(data, rng):
    name = rng.choice(["animal", "cat"])
    for category in data["categories"]:
        category["supercategory"] = name
    data["categories"].append({"id": 500, "name": name, "supercategory": "none"})


def scaled(data, rng):
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]


def corners(data, rng):
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]


def twice(data, rng):
    for annotation in rng.sample(data["annotations"], 3):
        data["annotations"].append({**annotation, "id": 100 + len(data["annotations"])})


def shuffled(data, rng):
    rng.shuffle(data["annotations"])
    rng.shuffle(data["images"])


def without_annotations(data, rng):
    data["annotations"] = []


def federated(data, rng):
    some = data["images"] if rng.random() < 0.8 else data["images"][:1]
    for image in some:
        ids = [int(category["id"]) for category in data["categories"]]
        image["neg_category_ids"] = rng.sample(ids, 1)
        image["not_exhaustive_category_ids"] = rng.sample(ids, 1)


def box(annotation):
    return annotation["bbox"]


#: In the order in which they are applied.
QUIRKS = {
    "scaled": scaled,
    "corners": corners,
    "narrow": annotations("bbox", [3, 4, 0.5, 9], [3, 4, 9, 0.01]),
    "without extent": annotations("bbox", [3, 4, 0, 9], [3, 4, 9, -2], [9, 9, -5, -5], [0] * 4),
    "outside": annotations("bbox", [-30, 4, 20, 9], [100, 100, 5, 5]),
    "leaving": annotations("bbox", lambda one: [50, *one["bbox"][1:]], [-5, -5, 900, 900]),
    "area": annotations("area", 0, ..., None, -3, 1e-9, 7, 1e9),
    "crowd": annotations("iscrowd", "0", "1", 1, 0, None, "", True, 0.0),
    "ignore": annotations("ignore", "0", 1, 0, None),
    "flag": annotations("iscrowd", "yes", [1], 2),
    "no masks": annotations("segmentation", None, [], [[]], ..., [[1, 2, 3, 4]], box),
    "more polygons": annotations("segmentation", lambda one: [[30, 2, 50, 2, 50, 30], [1, 2], []]),
    "flat polygon": annotations("segmentation", [30, 2, 50, 2, 50, 30]),
    "rle": annotations("segmentation", lambda one: uncompressed_rle((9, 9, 20, 20))),
    "other rle": annotations("segmentation", {"size": [9, 9], "counts": [81]}, "rle", {}),
    "bad box": annotations("bbox", [1, 2, 3], None, ["1", "2", "3", "4"]),
    "bad reference": annotations("image_id", 77),
    "other ids": other_ids,
    "root": root,
    "urls": images(coco_url="http://a/b/c.jpg"),
    "sizes": images(height=1000, width=2000),
    "federated": federated,
    "twice": twice,
    "shuffled": shuffled,
    "no annotations": without_annotations,
    "floats": floats,
}


def detections_of(data, truth) -> LVISDetections:
    """What the file holds, box by box, as a result file would."""
    order = np.random.default_rng(0).permutation(len(data["annotations"]))
    chosen = [data["annotations"][index] for index in order]
    # Nobody can give a box without width or height as a detection.
    chosen = [one for one in chosen if one["bbox"][2] > 0 and one["bbox"][3] > 0]
    return LVISDetections(
        image=np.searchsorted(truth.image_ids, [one["image_id"] for one in chosen]),
        category=np.searchsorted(truth.category_ids, [one["category_id"] for one in chosen]),
        score=np.linspace(1, 0.5, len(chosen)),
        boxes=np.array([one["bbox"] for one in chosen], dtype=np.float64).reshape(-1, 4),
    )


def read(path, names: set[str], rng: random.Random):
    """The ground truth and its detections of a file with some quirks; None if it is refused."""
    data = json.loads(BASE)
    for name, edit in QUIRKS.items():
        if name in names:
            edit(data, rng)
    path.write_text(json.dumps(data), encoding=rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    is_odd = names & {"flag", "bad box", "bad reference"} and data["annotations"]
    try:
        columns = read_annotations(str(path), cache=False)
        truth = LVISGroundTruth.from_columns(columns, str(path))
    except UserError as error:
        assert "\n" not in str(error)
        # Each of these may leave nothing but boxes in [0, 1], or corners.
        boxes = {"scaled", "corners", "narrow", "without extent", "outside", "leaving"}
        assert is_odd or names & {"federated", *boxes}, error
        return None
    assert not is_odd
    check_report(columns, truth, len(data["annotations"]), training=rng.random() < 0.5)
    return truth, detections_of(data, truth)


def check_report(columns, truth, num_annotations: int, training: bool) -> None:
    whole = DatasetAnnotations(columns, columns.category_name)
    report = report_data(whole, "file.json", np.arange(NUM_IMAGES), training)
    lost = sum(
        finding.count
        for finding in report.findings
        if finding.what.startswith(("dropped", "ignored", "left out"))
    )
    assert report.num_left + lost == report.num_annotations == num_annotations
    assert training or report.num_left == (~truth.ignore).sum()
    assert report.num_left or report.warnings or not num_annotations


def join(files: list) -> tuple[LVISGroundTruth, LVISDetections, np.ndarray]:
    """All files in one, with images and categories of their own; the file of each category."""
    num_categories = [len(truth.category_ids) for truth, _ in files]
    first = np.cumsum([0, *num_categories])

    def moved(of: int, column: str) -> np.ndarray:
        offsets = first if column == "category" else NUM_IMAGES * np.arange(len(files))
        parts = [getattr(file[of], column) for file in files]
        return np.concatenate([part + by for part, by in zip(parts, offsets, strict=False)])

    def joined(of: int, column: str) -> np.ndarray:
        return np.concatenate([getattr(file[of], column) for file in files])

    truth = LVISGroundTruth(
        image_ids=np.arange(NUM_IMAGES * len(files)),
        image_sizes=joined(0, "image_sizes"),
        category_ids=np.arange(first[-1]),
        category_names=tuple(map(str, range(first[-1]))),
        frequencies=None,
        image=moved(0, "image"),
        category=moved(0, "category"),
        masks=None,
        judged=None,
        not_exhaustive=np.zeros(0, dtype=np.int64),
        **{name: joined(0, name) for name in ("area", "ignore", "boxes")},
    )
    detections = LVISDetections(
        moved(1, "image"), moved(1, "category"), joined(1, "score"), joined(1, "boxes")
    )
    return truth, detections, np.repeat(np.arange(len(files)), num_categories)


@pytest.mark.filterwarnings("ignore:.*lvis-api")
def test_ground_truth_given_as_detections(tmp_path):
    rng = random.Random(0)
    coco, seen, num_refused = [], [], 0
    for _ in range(1000):
        names = {*rng.sample([*QUIRKS], rng.randint(0, 7))}
        seed = rng.getrandbits(32)
        try:
            file = read(tmp_path / "file.json", names, random.Random(seed))
            if file is not None and file[0].judged is not None:
                ap = evaluate_detections(*file, "bbox", [0.95]).metrics()["AP"]
                assert ap == pytest.approx(1 if (~file[0].ignore).any() else -1)
        except Exception as error:
            raise AssertionError(f"{names}, seed {seed}") from error
        num_refused += file is None
        if file is not None and file[0].judged is None:
            coco.append(file)
            seen.append((names, seed))
    truth, detections, file_of = join(coco)
    ap = evaluate_detections(truth, detections, "bbox", [0.95]).category_ap()
    wrong = [seen[file] for file in file_of[np.isfinite(ap) & (np.abs(ap - 1) > 1e-9)]]
    assert not wrong
    counted = np.bincount(truth.category[~truth.ignore], minlength=len(ap)) > 0
    np.testing.assert_array_equal(np.isfinite(ap), counted)
    assert num_refused < 500 < len(coco)
