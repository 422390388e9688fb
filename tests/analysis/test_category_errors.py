"""Hits, misses, false alarms and confusions of a category, by the rules of federated labels."""

import base64
import re

import cv2
import numpy as np
import pytest

from mmdet_eql.analysis.category_errors import find_category, find_errors
from mmdet_eql.annotations.reader import columns_of
from mmdet_eql.evaluation import (
    LVISDetections,
    LVISGroundTruth,
    evaluate_detections,
    write_results,
)
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import make_federated_set

DOG, CAT, COW = 1, 2, 3
RIGHT, NEAR, AWAY = [10, 10, 40, 40], [30, 30, 40, 40], [60, 60, 30, 30]


def make_truth(federated=True, **images) -> LVISGroundTruth:
    """Images by their labels: ``a=dict(annotated=[(category, box)], absent=[], partly=[])``."""
    data = {"images": [], "annotations": [], "categories": []}
    for category_id, name in ((DOG, "dog"), (CAT, "cat"), (COW, "cow")):
        data["categories"].append({"id": category_id, "name": name, "frequency": "r"})
    for image_id, image in enumerate(images.values(), start=1):
        data["images"].append(
            {
                "id": image_id,
                "height": 100,
                "width": 100,
                "file_name": f"{image_id}.png",
            }
        )
        if federated:
            data["images"][-1]["neg_category_ids"] = image.get("absent", [])
            data["images"][-1]["not_exhaustive_category_ids"] = image.get("partly", [])
        for category_id, box in image.get("annotated", []):
            number = len(data["annotations"]) + 1
            annotation = {"id": number, "image_id": image_id, "area": box[2] * box[3]}
            data["annotations"].append(dict(annotation, category_id=category_id, bbox=box))
    return LVISGroundTruth.from_columns(columns_of(data, "a.json"), "a.json")


def make_detections(*rows) -> LVISDetections:
    """Rows of image (from 1), category id, box and score."""
    image, category, boxes, score = zip(*rows, strict=True)
    return LVISDetections(
        np.array(image) - 1, np.array(category) - 1, np.array(score), np.array(boxes, float)
    )


def errors_of_dogs(truth, *rows, **options):
    return find_errors(truth, make_detections(*rows), find_category(truth, "dog"), **options)


def test_a_hit_and_its_duplicate():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT)]))
    errors = errors_of_dogs(truth, (1, DOG, RIGHT, 0.6), (1, DOG, [10, 10, 40, 38], 0.9))
    (hit,) = errors.hits
    assert hit.found.score == 0.9
    assert [alarm.kind for alarm in errors.false_alarms] == ["duplicate"]
    assert errors.misses == []
    assert errors.frequency == "r"


def test_a_miss_tells_what_was_seen_instead():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT), (DOG, AWAY)], absent=[CAT]))
    errors = errors_of_dogs(
        truth,
        (1, CAT, RIGHT, 0.7),
        (1, COW, RIGHT, 0.8),
        (1, DOG, RIGHT, 0.01),
        (1, COW, AWAY, 0.02),
    )
    large, small = errors.misses
    assert (large.confused.category, large.confused.score) == ("cow", 0.8)
    assert large.below.score == 0.01
    assert small.confused is None  # the score of this cow is too low
    assert errors.mistaken_for() == {"cow": 1}
    assert errors.false_alarms == []
    assert len(errors_of_dogs(truth, (1, DOG, RIGHT, 0.01), score_thr=0.005).hits) == 1


def test_kinds_of_false_alarms():
    truth = make_truth(
        a=dict(annotated=[(DOG, RIGHT)]),
        b=dict(annotated=[(CAT, RIGHT)], absent=[DOG]),
    )
    errors = errors_of_dogs(truth, (1, DOG, NEAR, 0.9), (2, DOG, RIGHT, 0.8), (2, DOG, AWAY, 0.7))
    kinds = [(alarm.kind, alarm.truth_category) for alarm in errors.false_alarms]
    expected = [("badly placed", None), ("another category", "cat"), ("nothing annotated", None)]
    assert kinds == expected
    assert errors.mistaken_from() == {"cat": 1}
    assert errors.num_absent == 1


def test_images_that_do_not_judge_the_category_are_no_errors():
    truth = make_truth(
        unknown=dict(annotated=[(CAT, RIGHT)]),
        partly=dict(annotated=[(DOG, RIGHT)], partly=[DOG]),
    )
    errors = errors_of_dogs(truth, (1, DOG, RIGHT, 0.9), (2, DOG, RIGHT, 0.9), (2, DOG, AWAY, 0.8))
    assert len(errors.hits) == 1
    assert errors.false_alarms == []
    assert (errors.num_unjudged, errors.num_excused) == (1, 1)


def test_all_images_of_a_coco_file_judge_the_category():
    truth = make_truth(
        federated=False, a=dict(annotated=[(DOG, RIGHT)]), b=dict(annotated=[(CAT, RIGHT)]), c={}
    )
    errors = errors_of_dogs(truth, (1, DOG, RIGHT, 0.9), (2, DOG, RIGHT, 0.8), (3, DOG, AWAY, 0.7))
    assert len(errors.hits) == 1
    kinds = [alarm.kind for alarm in errors.false_alarms]
    assert kinds == ["another category", "nothing annotated"]
    assert (errors.num_absent, errors.num_unjudged, errors.num_excused) == (2, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_as_many_hits_as_the_evaluation_counts(seed):
    data, records = make_federated_set(seed)
    truth = LVISGroundTruth.from_columns(columns_of(data, "a.json"), "a.json")
    position = {
        name: {one: index for index, one in enumerate(ids.tolist())}
        for name, ids in (("image", truth.image_ids), ("category", truth.category_ids))
    }
    detections = LVISDetections(
        np.array([position["image"][record["image_id"]] for record in records]),
        np.array([position["category"][record["category_id"]] for record in records]),
        np.array([record["score"] for record in records]),
        np.array([record["bbox"] for record in records], dtype=float),
    )
    recall = evaluate_detections(truth, detections, "bbox", np.array([0.5]), 10**6).recall[0, :, 0]
    for category, expected in enumerate(recall):
        errors = find_errors(truth, detections, category, score_thr=0)
        if errors.truths:
            assert len(errors.hits) / len(errors.truths) == pytest.approx(expected)
        else:
            assert expected == -1


def test_an_unknown_category_gets_a_hint():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT)]))
    with pytest.raises(UserError, match=r"no category 'dogs'; did you mean 'dog'\?"):
        find_category(truth, "dogs")
    with pytest.raises(UserError, match="no category 'zeppelin'; correct the name"):
        find_category(truth, "zeppelin")


def test_the_page_of_a_result_file(minilvis, train_annotations, tmp_path, call_tool):
    annotation = train_annotations["annotations"][0]
    category = next(
        one for one in train_annotations["categories"] if one["id"] == annotation["category_id"]
    )
    of_category = [
        one for one in train_annotations["annotations"] if one["category_id"] == category["id"]
    ]
    other = next(one["id"] for one in train_annotations["categories"] if one != category)
    # The largest miss is shown first.
    missed = max(of_category[1:], key=lambda one: one["bbox"][2] * one["bbox"][3])
    records = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9},
        {**{key: missed[key] for key in ("image_id", "bbox")}, "category_id": other}
        | {"score": 0.8},
    ]
    write_results(str(tmp_path / "r.bbox.json"), [records])
    arguments = [tmp_path / "r.bbox.json", minilvis / "annotations" / "minilvis_train.json"]
    options = ["--images", minilvis, "--category", category["name"], "--max-cases", 5]
    result = call_tool("analysis/browse_errors.py", *arguments, *options, check=True)
    assert f"{len(of_category):,} annotations, 1 found" in result.stdout

    page = (tmp_path / "errors.html").read_text(encoding="utf-8")
    assert "found: 0.90" in page
    assert "seen as" in page
    # Nothing is fetched from elsewhere.
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    pictures = re.findall(r"base64,([^\"]+)", page)
    assert len(pictures) == 1 + min(5, len(of_category) - 1)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), 1)
    assert picture.shape == (224, 224, 3)

    options[1] = tmp_path
    result = call_tool("analysis/browse_errors.py", *arguments, *options)
    assert result.returncode == 2
    assert "the image cannot be read" in result.stderr and "--images" in result.stderr
