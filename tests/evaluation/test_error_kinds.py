"""Kinds of errors and what they cost, by hand and beside the metrics."""

import json

import numpy as np
import pytest

from mmdet_eql.evaluation import compare_files, read_ground_truth, read_results
from mmdet_eql.evaluation.bootstrap import draw_images
from mmdet_eql.evaluation.error_kinds import KINDS, error_costs
from tests.analysis.test_category_errors import (
    AWAY,
    CAT,
    COW,
    DOG,
    NEAR,
    RIGHT,
    make_detections,
    make_truth,
)
from tests.evaluation.federated_sets import evaluate_files, make_federated_set, save


def costs(truth, *rows):
    return error_costs(truth, make_detections(*rows), "bbox")


def numbers(of):
    return {kind: of[kind]["number"] for kind in KINDS if of[kind]["number"]}


def gains(of):
    return {kind: of[kind]["AP"] for kind in (*KINDS, "FP", "FN") if of[kind]["AP"]}


def test_a_badly_placed_detection():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT), (DOG, AWAY)]))
    of = costs(truth, (1, DOG, NEAR, 0.9), (1, DOG, AWAY, 0.8))
    assert numbers(of) == {"Loc": 1}
    # Right is the second of two, which finds one of two objects.
    assert of["AP50"]["AP"] == pytest.approx(0.5 * 51 / 101)
    assert gains(of) == pytest.approx(
        {"Loc": 1 - 0.5 * 51 / 101, "FP": 0.5 * 51 / 101, "FN": 0.5 * 50 / 101}
    )
    assert of["AP50"]["APr"] == of["AP50"]["AP"]
    assert np.isnan(of["AP50"]["APf"])


def test_another_category_counts_for_the_one_of_the_object():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT), (CAT, AWAY)]))
    of = costs(truth, (1, CAT, AWAY, 0.5), (1, CAT, RIGHT, 0.9), (1, CAT, RIGHT, 0.3))
    assert numbers(of) == {"Cls": 2}
    # Of dogs none is found; of cats one, after a wrong one. Repaired, the best is a dog.
    assert of["AP50"]["AP"] == pytest.approx(0.25)
    assert gains(of) == pytest.approx({"Cls": 0.75, "FP": 0.25, "FN": 0.5})


def test_both_duplicates_background_and_misses():
    truth = make_truth(
        a=dict(annotated=[(DOG, RIGHT), (DOG, AWAY)], absent=[CAT]),
        b=dict(annotated=[(CAT, RIGHT)]),
    )
    far = [90, 0, 10, 10]
    of = costs(
        truth,
        (1, DOG, RIGHT, 0.9),
        (1, DOG, RIGHT, 0.8),
        (1, CAT, NEAR, 0.7),
        (1, DOG, far, 0.6),
        (2, CAT, RIGHT, 0.5),
    )
    assert numbers(of) == {"Both": 1, "Dupe": 1, "Bkg": 1, "Miss": 1}
    base = (51 / 101 + 0.5) / 2
    assert of["AP50"]["AP"] == pytest.approx(base)
    # The duplicate and the background come after the right dog, where nothing is found any more.
    assert gains(of) == pytest.approx({"Both": 0.25, "Miss": 25 / 101, "FP": 0.25, "FN": 25 / 101})


def test_where_all_objects_are_missed_nothing_else_is_lost():
    truth = make_truth(a=dict(annotated=[(DOG, RIGHT)], absent=[CAT]))
    of = costs(truth, (1, CAT, AWAY, 0.9))
    assert of["AP50"]["AP"] == 0
    assert gains(of) == {"Miss": 1, "FN": 1}
    assert numbers(of) == {"Bkg": 1, "Miss": 1}


def test_what_an_image_does_not_judge_is_no_error_and_explains_none():
    truth = make_truth(
        unknown=dict(annotated=[(CAT, RIGHT)]),
        partly=dict(annotated=[(DOG, RIGHT)], partly=[DOG]),
    )
    of = costs(
        truth, (1, DOG, RIGHT, 0.9), (1, COW, RIGHT, 0.9), (2, DOG, RIGHT, 0.8), (2, DOG, AWAY, 0.9)
    )
    assert numbers(of) == {"Miss": 1}
    every = make_truth(federated=False, a=dict(annotated=[(CAT, RIGHT)]))
    assert numbers(costs(every, (1, DOG, RIGHT, 0.9))) == {"Cls": 1}


@pytest.mark.parametrize(("seed", "iou_type"), [(0, "bbox"), (1, "segm"), (2, "boundary")])
def test_the_metric_is_ap50_and_each_object_is_found_or_lost_once(seed, iou_type, tmp_path):
    data, results = make_federated_set(seed, masks=iou_type != "bbox")
    ann_file, path = save(tmp_path, data, results)
    evaluation = evaluate_files(ann_file, path, iou_type, [0.5])
    truth = read_ground_truth(ann_file, with_masks=iou_type != "bbox")
    of = error_costs(truth, read_results(path, truth, iou_type), iou_type)
    metrics = evaluation.metrics()
    for name in ("AP", "APr", "APc", "APf"):
        value = of["AP50"][name]
        assert (-1 if np.isnan(value) else value) == pytest.approx(metrics[name], abs=1e-9)
    assert of["FP"]["number"] == sum(of[kind]["number"] for kind in KINDS[:-1])
    assert of["Miss"]["number"] <= of["FN"]["number"] <= (~truth.ignore).sum()


def test_errors_of_files_side_by_side(tmp_path, call_tool):
    data, results = make_federated_set(3)
    # The one draw misses the only image of the only rare category; no category is frequent.
    (missed, *_) = np.flatnonzero(draw_images(len(data["images"]), 1, 0)[:, 0] == 0)
    missed = sorted(image["id"] for image in data["images"])[missed]
    rare = next(a["category_id"] for a in data["annotations"] if a["image_id"] == missed)
    data["annotations"] = [
        a for a in data["annotations"] if a["category_id"] != rare or a["image_id"] == missed
    ]
    for category in data["categories"]:
        category["frequency"] = "r" if category["id"] == rare else "c"
    files = save(tmp_path, data, results)
    (file,) = compare_files(files[0], [files[1]], errors=True)
    assert file.errors["AP50"]["AP"] == pytest.approx(file.metrics["AP50"], abs=1e-9)
    figure = tmp_path / "figure.png"
    out = call_tool(
        "evaluate.py", files[0], files[1], files[1], "--errors", "--bootstrap", 1,
        "--plot", figure, "--json", tmp_path / "out.json", check=True,
    )  # fmt: skip
    assert "|  Miss |" in out.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)  # NaN
    assert content[1]["intervals"]["APr"] is None
    assert content[1]["errors"]["Dupe"]["APf"] is None
    assert content[1]["errors"]["Dupe"]["APc"] == file.errors["Dupe"]["APc"]
