import copy
import multiprocessing

import numpy as np
import pytest

from mmdet_eql.evaluation import (
    LVISDetections,
    compare_files,
    evaluate_detections,
    read_ground_truth,
    read_results,
)
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import evaluate_files, judge, make_federated_set, save


def assert_agrees(ours, theirs):
    """Every figure, and both arrays, are those of lvis-api."""
    np.testing.assert_allclose(ours.precision, theirs.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.recall, theirs.eval["recall"], rtol=0, atol=1e-9)
    figures = ours.metrics()
    assert list(figures) == list(theirs.results)
    for name, value in theirs.results.items():
        assert figures[name] == pytest.approx(value, rel=0, abs=1e-9), name
        assert type(figures[name]) is float


@pytest.mark.parametrize("seed", range(24))
def test_boxes_agree_with_lvis_api(seed, tmp_path):
    data, results = make_federated_set(seed, first_id=1 + seed % 2)
    files = save(tmp_path, data, results)
    assert_agrees(evaluate_files(*files, "bbox"), judge(*files, "bbox"))


@pytest.mark.parametrize("seed", range(12))
def test_masks_agree_with_lvis_api(seed, tmp_path):
    data, results = make_federated_set(seed, masks=True)
    files = save(tmp_path, data, results)
    assert_agrees(evaluate_files(*files, "segm"), judge(*files, "segm"))


def test_the_random_sets_hold_what_makes_evaluation_hard():
    """Otherwise the agreement above would say little."""
    seen = set()
    for seed in range(40):
        data, results = make_federated_set(seed)
        annotated = {ann["category_id"] for ann in data["annotations"]}
        pairs = {(ann["image_id"], ann["category_id"]) for ann in data["annotations"]}
        scores = [(r["image_id"], r["category_id"], r["score"]) for r in results]
        of_image = [sum(r["image_id"] == i["id"] for r in results) for i in data["images"]]
        absent = {(i["id"], c) for i in data["images"] for c in i["neg_category_ids"]}
        loose = {(i["id"], c) for i in data["images"] for c in i["not_exhaustive_category_ids"]}
        detected = {(r["image_id"], r["category_id"]) for r in results}
        areas = {ann["area"] for ann in data["annotations"]}
        facts = {
            "categories without ground truth": len(annotated) < len(data["categories"]),
            "crowded images": max(of_image) > 300,
            "images without detections": min(of_image) == 0,
            "images without annotations": len({i for i, _ in pairs}) < len(data["images"]),
            "equal scores": len(set(scores)) < len(scores),
            "false alarms of an absent category": bool(absent & detected),
            "not exhaustive": bool(loose & detected & pairs),
            "detections nobody judges": bool(detected - absent - pairs),
            "borders of area ranges": {32**2, 96**2} <= areas,
            "annotations set aside": any(ann.get("ignore") for ann in data["annotations"]),
            "detections without an area": any(r["bbox"][2] == 0 for r in results),
        }
        seen |= {name for name, holds in facts.items() if holds}
    assert seen == set(facts)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_other_thresholds_and_limits_agree(iou_type, tmp_path):
    from lvis import LVIS, LVISEval, LVISResults

    data, results = make_federated_set(3, masks=iou_type == "segm")
    ann_file, results_file = save(tmp_path, data, results)
    thresholds = np.array([0.3, 0.5, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 on NumPy >= 1.24
        truth = LVIS(ann_file)
        theirs = LVISEval(truth, LVISResults(truth, results_file, max_dets=20), iou_type)
        theirs.params.iou_thrs = thresholds
        theirs.params.max_dets = 20
        theirs.run()
    ours = evaluate_files(ann_file, results_file, iou_type, thresholds, 20)
    np.testing.assert_allclose(ours.precision, theirs.eval["precision"], rtol=0, atol=1e-9)
    figures = ours.metrics()
    assert "AP75" not in figures
    assert {**figures, "AP75": -1} == pytest.approx(dict(theirs.results), rel=0, abs=1e-9)


def test_figures_do_not_depend_on_the_order_of_images(tmp_path):
    data, results = make_federated_set(5)
    files = save(tmp_path, data, results)
    expected = evaluate_files(*files).metrics()
    data["images"].reverse()
    data["categories"].reverse()
    results.sort(key=lambda record: -record["image_id"])
    assert evaluate_files(*save(tmp_path, data, results)).metrics() == expected


# --- one image, one category: what each rule does -------------------------------------------------


def one_image(annotations, **image):
    return {
        "images": [
            {
                "id": 1,
                "height": 400,
                "width": 400,
                "file_name": "a.jpg",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
                **image,
            }
        ],
        "annotations": [
            {
                "id": index + 1,
                "image_id": 1,
                "category_id": 1,
                "area": annotation["bbox"][2] * annotation["bbox"][3],
                **annotation,
            }
            for index, annotation in enumerate(annotations)
        ],
        "categories": [
            {"id": 1, "name": "a", "frequency": "r"},
            {"id": 2, "name": "b", "frequency": "f"},
        ],
    }


def detection(score, bbox, category_id=1):
    return {"image_id": 1, "category_id": category_id, "bbox": bbox, "score": score}


def evaluate(tmp_path, data, results):
    files = save(tmp_path, data, results)
    ours = evaluate_files(*files)
    assert_agrees(ours, judge(*files, "bbox"))
    return ours.metrics()


BOX = [10, 10, 40, 40]
AWAY = [200, 200, 40, 40]


def test_perfect_detection(tmp_path):
    figures = evaluate(tmp_path, one_image([{"bbox": BOX}]), [detection(0.9, BOX)])
    assert [figures[item] for item in ("AP", "APr", "APm", "AR@300")] == pytest.approx([1] * 4)
    # Nothing frequent, small or large is annotated.
    assert figures["APf"] == figures["APs"] == figures["APl"] == -1


def test_missed_object(tmp_path):
    figures = evaluate(tmp_path, one_image([{"bbox": BOX}]), [detection(0.9, AWAY)])
    assert figures["AP"] == figures["AR@300"] == 0


def test_false_alarm_counts_only_if_the_category_was_looked_for(tmp_path):
    data = one_image([{"bbox": BOX}])
    results = [detection(0.9, BOX), detection(0.95, AWAY, category_id=2)]
    assert evaluate(tmp_path, data, results)["AP"] == pytest.approx(1)
    # Category 2 has no ground truth at all, so that its false alarm has no figure to spoil.
    data["images"][0]["neg_category_ids"] = [2]
    assert evaluate(tmp_path, data, results)["APf"] == -1


def test_false_alarm_of_an_absent_category_lowers_its_precision(tmp_path):
    data = one_image([{"bbox": BOX}])
    other = copy.deepcopy(data["images"][0])
    data["images"].append({**other, "id": 2, "neg_category_ids": [1]})
    results = [detection(0.9, BOX), {**detection(0.95, AWAY), "image_id": 2}]
    assert evaluate(tmp_path, data, results)["AP"] == pytest.approx(0.5)
    data["images"][1]["neg_category_ids"] = []
    assert evaluate(tmp_path, data, results)["AP"] == pytest.approx(1)


def test_unmatched_detections_are_excused_where_annotation_is_not_exhaustive(tmp_path):
    results = [detection(0.95, AWAY), detection(0.9, BOX)]
    assert evaluate(tmp_path, one_image([{"bbox": BOX}]), results)["AP"] == pytest.approx(0.5)
    data = one_image([{"bbox": BOX}], not_exhaustive_category_ids=[1])
    assert evaluate(tmp_path, data, results)["AP"] == pytest.approx(1)


def test_limit_of_300_counts_detections_nobody_judges(tmp_path):
    data = one_image([{"bbox": BOX}])
    boxes = [[AWAY[0] + 0.01 * index, *AWAY[1:]] for index in range(300)]  # no two are the same
    unjudged = [detection(0.9, box, category_id=2) for box in boxes]
    assert evaluate(tmp_path, data, [detection(0.5, BOX), *unjudged])["AP"] == 0
    assert evaluate(tmp_path, data, [detection(0.5, BOX), *unjudged[1:]])["AP"] == pytest.approx(1)
    # Of equal scores the one that comes first in the file takes the place.
    assert evaluate(tmp_path, data, [detection(0.9, BOX), *unjudged])["AP"] == pytest.approx(1)


def test_objects_set_aside_are_neither_found_nor_missed(tmp_path):
    data = one_image([{"bbox": BOX}, {"bbox": AWAY, "ignore": 1}])
    assert evaluate(tmp_path, data, [detection(0.9, BOX)])["AP"] == pytest.approx(1)
    assert evaluate(tmp_path, data, [detection(0.95, AWAY), detection(0.9, BOX)])[
        "AP"
    ] == pytest.approx(1)


def test_annotation_without_extent_does_not_exist(tmp_path):
    files = save(tmp_path, one_image([{"bbox": [*BOX[:3], 0], "area": 9}]), [detection(0.9, BOX)])
    with pytest.warns(UserWarning, match="which lvis-api counts as missed"):
        assert evaluate_files(*files).metrics()["AP"] == -1
    assert judge(*files, "bbox").results["AP"] == 0


def test_an_object_whose_area_is_0_counts(tmp_path):
    files = save(tmp_path, one_image([{"bbox": BOX, "area": 0}]), [detection(0.9, BOX)])
    with pytest.warns(UserWarning, match="has no 'area' above 0"):
        assert evaluate_files(*files).metrics()["APm"] == pytest.approx(1)
    assert judge(*files, "bbox").results["AP"] == -1


def test_annotation_with_the_id_0_counts_with_a_warning(tmp_path):
    """lvis-api marks a match by the annotation's id and reads 0 as none."""
    files = save(tmp_path, one_image([{"bbox": BOX, "id": 0}]), [detection(0.9, BOX)])
    with pytest.warns(UserWarning, match=f"{files[0]}: annotation 0 has the id 0"):
        assert evaluate_files(*files).metrics()["AP"] == pytest.approx(1)
    assert judge(*files, "bbox").results["AP"] == 0


def test_the_last_of_equal_ious_is_taken(tmp_path):
    # The first detection overlaps both objects by 0.6, the second detection only the second object,
    # by 0.82. Up to 0.6 the first takes the second object and leaves none to the second detection.
    data = one_image([{"bbox": [10, 10, 40, 40]}, {"bbox": [30, 10, 40, 40]}])
    results = [detection(0.9, [20, 10, 40, 40]), detection(0.8, [34, 10, 40, 40])]
    figures = evaluate(tmp_path, data, results)
    # One of two objects at the thresholds 0.5, ..., 0.8; none beyond.
    assert figures["AR@300"] == pytest.approx(7 / 10 * 1 / 2)


def test_nothing_detected_is_recall_and_precision_0(tmp_path):
    ann_file, results_file = save(tmp_path, one_image([{"bbox": BOX}]), [])
    evaluation = evaluate_files(ann_file, results_file)
    figures = evaluation.metrics()
    assert figures["AP"] == figures["APr"] == figures["APm"] == figures["AR@300"] == 0
    assert figures["APs"] == figures["APf"] == -1
    assert evaluation.recall_by_frequency() == {"ARr@300": 0, "ARc@300": -1, "ARf@300": -1}
    with pytest.raises(IndexError):  # why there is no judge here
        judge(ann_file, results_file, "bbox")


def test_nothing_annotated(tmp_path):
    data = one_image([], neg_category_ids=[1])
    figures = evaluate(tmp_path, data, [detection(0.9, BOX)])
    assert set(figures.values()) == {-1}


# --- parts ----------------------------------------------------------------------------------------


def test_ap_of_each_category(tmp_path):
    data, results = make_federated_set(2)
    files = save(tmp_path, data, results)
    category_ap = evaluate_files(*files).category_ap()
    precision = judge(*files, "bbox").eval["precision"][..., 0]
    for index, ap in enumerate(category_ap):
        of_category = precision[:, :, index]
        if (of_category > -1).any():
            assert ap == pytest.approx(of_category[of_category > -1].mean(), rel=0, abs=1e-9)
        else:
            assert np.isnan(ap)
    assert np.isnan(category_ap).any()
    assert (category_ap > 0).any()


def test_selected_categories_are_all_that_counts(tmp_path):
    """As if the others were in neither file."""
    data, results = make_federated_set(4)
    ann_file, _ = save(tmp_path, data, results)
    chosen = sorted(category["id"] for category in data["categories"])[::2]
    truth = read_ground_truth(ann_file).select_categories(chosen)

    data["categories"] = [c for c in data["categories"] if c["id"] in chosen]
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] in chosen]
    for image in data["images"]:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[field] = [i for i in image[field] if i in chosen]
    results = [record for record in results if record["category_id"] in chosen]
    files = save(tmp_path, data, results)
    ours = evaluate_detections(truth, read_results(files[1], truth, "bbox"), "bbox")
    assert_agrees(ours, judge(*files, "bbox"))
    assert ours.category_ids.tolist() == chosen


def test_merged_categories_give_class_agnostic_recall(tmp_path):
    data, results = make_federated_set(6)
    ann_file, results_file = save(tmp_path, data, results)
    truth = read_ground_truth(ann_file)
    detections = read_results(results_file, truth, "bbox")
    objects = LVISDetections(
        detections.image, np.zeros_like(detections.category), detections.score, detections.boxes
    )
    ours = evaluate_detections(truth.merge_categories(), objects, "bbox", max_detections=50)

    data["categories"] = [{"id": 1, "name": "object", "frequency": "f"}]
    for record in data["annotations"] + results:
        record["category_id"] = 1
    for image in data["images"]:
        image["neg_category_ids"] = [1]
        image["not_exhaustive_category_ids"] = []
    theirs = judge(*save(tmp_path, data, results), "bbox", max_dets=50)
    for item in ("AR@50", "ARs@50", "ARm@50", "ARl@50"):
        assert ours.metrics()[item] == pytest.approx(theirs.results[item], rel=0, abs=1e-9)


def test_files_without_frequencies_have_no_figures_by_frequency(tmp_path):
    data, results = make_federated_set(0)
    for category in data["categories"]:
        del category["frequency"]
    evaluation = evaluate_files(*save(tmp_path, data, results))
    figures = evaluation.metrics()
    assert not {"APr", "APc", "APf"} & set(figures)
    assert evaluation.recall_by_frequency() == {}
    assert "AP" in figures


@pytest.mark.parametrize("frequency", [None, "x"])
def test_frequencies_must_be_complete_and_known(frequency, tmp_path):
    data, results = make_federated_set(0)
    data["categories"][3]["frequency"] = frequency
    ann_file, results_file = save(tmp_path, data, results)
    with pytest.raises(UserError, match=rf"{ann_file}: category .* frequency {frequency!r}"):
        evaluate_files(ann_file, results_file)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2]],
        "text",
        {"size": [400, 400]},
        {"size": [400, 400], "counts": "?!"},
        {"size": [20, 20], "counts": [400]},
        {"size": [400, 400], "counts": [399]},
    ],
)
def test_annotated_masks_must_be_usable(segmentation, tmp_path):
    data = one_image([{"bbox": BOX, "segmentation": segmentation}])
    ann_file, _ = save(tmp_path, data, [])
    with pytest.raises(UserError, match=f"{ann_file}: annotation 1 has"):
        read_ground_truth(ann_file, with_masks=True)
    read_ground_truth(ann_file)  # boxes do not care


def test_a_process_forked_after_an_evaluation_does_not_wait_for_ever(tmp_path):
    files = save(tmp_path, *make_federated_set(0))
    evaluate_files(*files)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        forked = pool.apply_async(compare_files, (files[0], [files[1]]))
        with pytest.raises(UserError, match=rf"{files[1]}: this process was forked from one that"):
            forked.get(60)


def test_unknown_iou_type():
    with pytest.raises(UserError, match="'keypoints'"):
        evaluate_detections(None, None, "keypoints")


def test_recall_by_frequency_is_the_mean_over_the_categories_of_a_group(tmp_path):
    data, results = make_federated_set(3)
    evaluation = evaluate_files(*save(tmp_path, data, results))
    recall = evaluation.recall[:, :, 0].mean(axis=0)
    has_truth = recall > -1
    for group in "rcf":
        of_group = recall[(evaluation.frequencies == group) & has_truth]
        expected = of_group.mean() if len(of_group) else -1
        assert evaluation.recall_by_frequency()[f"AR{group}@300"] == pytest.approx(expected)
