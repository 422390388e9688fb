"""Random federated sets with everything that makes evaluation hard, and the judge of the figures.

The judge is lvis-api's own ``LVISEval``, package ``lvis`` 0.5.3. Its ``accumulate`` writes
``np.float``, which NumPy 1.24 removed; :func:`judge` provides it for the time of the call.
"""

import json
from unittest import mock

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation import evaluate_detections, read_ground_truth, read_results


def judge(ann_file, results, iou_type, max_dets=300):
    """Run lvis-api on files; returns its ``LVISEval`` with ``results`` and ``eval`` filled in."""
    from lvis import LVIS, LVISEval, LVISResults

    with mock.patch.object(np, "float", float, create=True):
        ground_truth = LVIS(str(ann_file))
        detections = LVISResults(ground_truth, str(results), max_dets=max_dets)
        evaluation = LVISEval(ground_truth, detections, iou_type)
        evaluation.params.max_dets = max_dets
        evaluation.run()
    return evaluation


def evaluate_files(ann_file, results, iou_type="bbox", *limits):
    """Evaluate a result file, with the thresholds and limits of ``evaluate_detections``."""
    truth = read_ground_truth(ann_file, iou_type != "bbox")
    detections = read_results(results, truth, iou_type, ann_file)
    return evaluate_detections(truth, detections, iou_type, *limits)


def counted_in_training(data):
    """Take the frequencies out of the categories of an annotation file.

    Returns:
        tuple: Its content without them, and that of a training set whose counts give the same.
    """
    categories = [{"id": one["id"], "name": one["name"]} for one in data["categories"]]
    counts = [{"r": 10, "c": 100, "f": 101}[one["frequency"]] for one in data["categories"]]
    pairs = [(j, one["id"]) for one, n in zip(categories, counts, strict=True) for j in range(n)]
    annotations = [
        {"id": k, "image_id": j, "category_id": i, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        for k, (j, i) in enumerate(pairs, start=1)
    ]
    images = [{"id": j, "file_name": f"{j}.jpg", "width": 20, "height": 20} for j in range(101)]
    training = {"images": images, "annotations": annotations, "categories": categories}
    return {**data, "categories": categories}, training


def make_federated_set(seed, num_images=12, num_categories=9, masks=False, first_id=1):
    """Make an annotation file's content and results for it.

    In it: crowded images with more than 300 detections, equal scores, equal boxes, annotations at
    the very border of the area ranges, or set aside; empty images; images without
    detections; categories that are never annotated or never detected; categories verified absent,
    not exhaustively annotated, or never looked for.

    Args:
        seed (int): Seed.
        num_images (int): Number of images.
        num_categories (int): Number of categories.
        masks (bool): Whether to draw masks; images, boxes and scores are the same without.
        first_id (int): Id of the first annotation.

    Returns:
        tuple: Content of the annotation file, and records of a result file for boxes, or for masks.
    """
    rng = np.random.default_rng(seed)
    mask_rng = np.random.default_rng(seed) if masks else None
    category_ids = rng.permutation(np.arange(1, 3 * num_categories))[:num_categories].tolist()
    annotated_ids = category_ids[: max(1, int(0.8 * num_categories))]
    data = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": i, "name": f"category_{i}", "frequency": str(rng.choice(list("rcf")))}
            for i in category_ids
        ],
    }
    results = []
    for image_id in rng.permutation(np.arange(1, 5 * num_images))[:num_images].tolist():
        height, width = (int(side) for side in rng.integers(40, 260, 2))
        crowded = rng.random() < 0.15
        objects = _objects(rng, annotated_ids, height, width, crowded)
        for category_id, box in objects:
            annotation = {
                "id": first_id + len(data["annotations"]),
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "area": _area(rng, box),
            }
            if rng.random() < 0.05:
                annotation["ignore"] = 1
            if masks:
                annotation["segmentation"] = _annotated_mask(mask_rng, box, height, width)
            data["annotations"].append(annotation)
        present = {category_id for category_id, _ in objects}
        data["images"].append(
            {
                "id": image_id,
                "height": height,
                "width": width,
                "file_name": f"{image_id}.jpg",
                "neg_category_ids": _some(rng, set(category_ids) - present, 0.3),
                "not_exhaustive_category_ids": _some(rng, category_ids, 0.15),
            }
        )
        results += _detections(
            rng, image_id, category_ids, objects, height, width, crowded, mask_rng
        )
    order = rng.permutation(len(results))
    return data, [results[i] for i in order]


def save(folder, data, results):
    """Write both as files; returns their paths as text."""
    ann_file, results_file = folder / "annotations.json", folder / "results.json"
    ann_file.write_text(json.dumps(data))
    results_file.write_text(json.dumps(results))
    return str(ann_file), str(results_file)


def _objects(rng, category_ids, height, width, crowded):
    if rng.random() < 0.1:
        return []
    number = int(rng.integers(30, 50)) if crowded else int(rng.integers(1, 9))
    # Few categories in a crowded image, so that many instances compete for many detections.
    category_ids = category_ids[:2] if crowded else category_ids
    return [(int(rng.choice(category_ids)), _box(rng, height, width)) for _ in range(number)]


def _box(rng, height, width):
    x, y = int(rng.integers(0, width - 9)), int(rng.integers(0, height - 9))
    # A coarse grid makes IoUs of exactly 0.5 or 0.75, and ties between them, likely.
    sides = [int(rng.integers(2, width - x)), int(rng.integers(2, height - y))]
    box = [x // 4 * 4, y // 4 * 4, *sides]
    return box if rng.random() < 0.5 else [value + float(rng.random()) / 2 for value in box]


def _area(rng, box):
    if rng.random() < 0.15:
        return int(rng.choice([32**2, 96**2]))
    return box[2] * box[3] * float(rng.uniform(0.5, 1))


def _some(rng, category_ids, share):
    return [int(i) for i in sorted(category_ids) if rng.random() < share]


def _detections(rng, image_id, category_ids, objects, height, width, crowded, mask_rng):
    if rng.random() < 0.1:
        return []
    number = int(rng.integers(301, 360)) if crowded else int(rng.integers(1, 40))
    detections = []
    for _ in range(number):
        category_id, box = int(rng.choice(category_ids)), _box(rng, height, width)
        if objects and rng.random() < 0.7:
            found, box = objects[rng.integers(len(objects))]
            category_id = found if rng.random() < 0.8 else category_id
            if rng.random() < 0.7:
                shift = rng.integers(-6, 7, 4)
                box = [value + int(change) for value, change in zip(box, shift, strict=True)]
                box[2:] = [max(0, side) for side in box[2:]]
        score = float(rng.random())
        detection = {
            "image_id": image_id,
            "category_id": category_id,
            "score": round(score, 1) if rng.random() < 0.5 else score,
        }
        if mask_rng:
            detection["segmentation"] = _detected_mask(mask_rng, box, height, width)
        else:
            detection["bbox"] = box
        detections.append(detection)
    return detections


def _annotated_mask(rng, box, height, width):
    kind = rng.random()
    if kind < 0.7:
        return _polygons(rng, box)
    bitmap = _bitmap(box, height, width)
    if kind < 0.85:
        return _rle(bitmap)
    runs = np.diff(np.flatnonzero(np.diff(np.pad(bitmap.T.ravel(), 1, constant_values=2))))
    counts = runs.tolist() if not bitmap[0, 0] else [0, *runs.tolist()]
    return {"size": [height, width], "counts": counts}


def _polygons(rng, box):
    x, y, width, height = box
    polygons = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if rng.random() < 0.3:
        polygons.append([x, y + height, x + width, y + height + 3, x + width / 2, y + height + 9])
    if rng.random() < 0.3:
        polygons[0] += [x - 2, y + height / 2]
    return polygons


def _detected_mask(rng, box, height, width):
    bitmap = _bitmap(box, height, width)
    if rng.random() < 0.3:
        bitmap &= rng.random(bitmap.shape) < 0.9
    return _rle(bitmap)


def _bitmap(box, height, width):
    x, y = max(0, round(box[0])), max(0, round(box[1]))
    bitmap = np.zeros((height, width), dtype=np.uint8)
    bitmap[y : y + round(box[3]), x : x + round(box[2])] = 1
    return bitmap


def _rle(bitmap):
    rle = mask_utils.encode(np.asfortranarray(bitmap))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
