import json
import os
import signal
from dataclasses import fields, replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdet_eql.evaluation import compare_files, lvis_results, read_ground_truth, read_results
from mmdet_eql.evaluation.columns import LVISDetections
from mmdet_eql.evaluation.lvis_results import (
    _read_carefully,
    image_records,
    write_json,
    write_results,
)
from mmdet_eql.utils import json_pieces
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import evaluate_files, judge, make_federated_set, save
from tests.fuzz.mutations import spoilt_json


@pytest.fixture(scope="module", params=["bbox", "segm"])
def iou_type(request):
    return request.param


@pytest.fixture(scope="module")
def example(iou_type):
    return make_federated_set(7, masks=iou_type == "segm")


@pytest.fixture
def files(example, tmp_path):
    return save(tmp_path, *example)


def test_reading_what_was_written_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    boxes = rng.random((5, 4)) * 1e3
    scores = rng.random(5)
    category_ids = np.array([3, 1, 3, 2, 1])
    masks = [b"5", b"PPYo0", b"5", b"05", b"5"]
    path = tmp_path / "new" / "folder" / "a.json"
    write_results(str(path), [image_records(4, category_ids, scores, boxes), []])
    records = json.loads(path.read_text())
    assert [record["bbox"] for record in records] == boxes.tolist()
    assert [record["score"] for record in records] == scores.tolist()
    assert [record["category_id"] for record in records] == category_ids.tolist()
    assert {record["image_id"] for record in records} == {4}

    write_results(str(path), [[], image_records(9, category_ids, scores, masks=masks, size=(5, 1))])
    records = json.loads(path.read_text())
    assert [record["segmentation"]["counts"] for record in records] == [m.decode() for m in masks]
    assert {tuple(record["segmentation"]["size"]) for record in records} == {(5, 1)}
    assert not any("bbox" in record for record in records)


@pytest.mark.parametrize("write", [write_results, write_json])
def test_files_appear_whole_or_not_at_all(write, tmp_path):
    path = tmp_path / "a.json"
    write(str(path), [])
    before = path.read_text()

    def broken():
        yield [{"image_id": 1}]
        raise RuntimeError("interrupted")

    with pytest.raises((RuntimeError, TypeError)):
        write(str(path), broken())
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["a.json"]


def test_unwritable_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a\.bbox\.json: cannot be written"):
        write_results(str(tmp_path / "file" / "a.bbox.json"), [])


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("num_bytes", [1, 5000, 1 << 20])
def test_every_layout_and_piece_size_reads_the_same(
    layout, num_bytes, example, files, iou_type, monkeypatch
):
    _, results = example
    expected = evaluate_files(*files, iou_type).precision
    with open(files[1], "w") as file:
        file.write("\n " + json.dumps(results, **layout) + "\n")
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", num_bytes)
    np.testing.assert_array_equal(evaluate_files(*files, iou_type).precision, expected)


def test_text_that_looks_like_a_border_between_records(example, files, iou_type, monkeypatch):
    _, results = example
    expected = evaluate_files(*files, iou_type).precision
    results = [{"note": "}, {", "more": [{"a": 1}, {"b": 2}], **record} for record in results]
    with open(files[1], "w") as file:
        json.dump(results, file)
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", 100)
    np.testing.assert_array_equal(evaluate_files(*files, iou_type).precision, expected)


@pytest.fixture(scope="module")
def spoilt_files(tmp_path_factory):
    return save(tmp_path_factory.mktemp("spoilt"), *make_federated_set(7, masks=True))


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    iou_type=st.sampled_from(["bbox", "segm"]),
    boxed=st.booleans(),
    num_bytes=st.sampled_from([1, 1 << 20]),
)
def test_both_ways_of_reading_agree(spoilt_files, data, iou_type, boxed, num_bytes):
    """A file is refused with the same words, or gives the same columns."""
    truth = read_ground_truth(spoilt_files[0])
    size = truth.image_sizes[0].tolist()
    mask = {"segmentation": {"size": size, "counts": "5"}, "note": ["}, {", 1.5, None]}
    box = {"bbox": [1, 2.5, 30, 1e-3]} if boxed or iou_type == "bbox" else {}
    ids = {"image_id": int(truth.image_ids[0]), "category_id": int(truth.category_ids[0])}
    records = [{**ids, **mask, **box, "score": score} for score in (0.5, 1, 0.25)]
    with open(spoilt_files[1], "wb") as file:
        file.write(
            data.draw(st.one_of(st.just(json.dumps(records).encode()), spoilt_json(records)))
        )

    def outcome(read):
        try:
            return read(spoilt_files[1], truth, iou_type, "truth")
        except UserError as error:
            return str(error)

    with mock.patch.object(json_pieces, "_BYTES_AT_ONCE", num_bytes):
        decoded, carefully = outcome(read_results), outcome(_read_carefully)
    assert type(decoded) is type(carefully)
    if isinstance(decoded, str):
        assert decoded == carefully
    else:
        for field in fields(LVISDetections):
            np.testing.assert_array_equal(
                getattr(decoded, field.name), getattr(carefully, field.name)
            )


def test_a_sound_file_is_read_once(files, iou_type, monkeypatch):
    truth = read_ground_truth(files[0])

    def refuse(*args):
        raise AssertionError(args)

    monkeypatch.setattr(lvis_results, "load_json", refuse)
    assert len(read_results(files[1], truth, iou_type).score)


def test_a_process_that_is_killed_is_told(files, iou_type, monkeypatch):
    """As the system does when memory runs out: no figure, and no endless wait."""
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(lvis_results, "_columns", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    truth = read_ground_truth(files[0])
    with pytest.raises(UserError, match="a process was killed at its work"):
        read_results(files[1], truth, iou_type)


@pytest.mark.parametrize("huge", [0, 2**53 + 1, -(2**53) - 1])
def test_ids_are_exact(huge, tmp_path):
    """Whole numbers may be written as floats; those beyond what a float holds are not rounded."""
    truth = read_ground_truth(save(tmp_path, *make_federated_set(0))[0])
    truth = replace(truth, image_ids=truth.image_ids + huge, category_ids=truth.category_ids + huge)
    records = [
        {"image_id": one, "category_id": float(other) if not huge else other, "score": 1}
        for one, other in zip(truth.image_ids.tolist(), truth.category_ids.tolist(), strict=False)
    ]
    path = tmp_path / "ids.json"
    path.write_text(json.dumps([{**record, "bbox": [1, 2, 3, 4]} for record in records]))
    found = read_results(str(path), truth, "bbox")
    np.testing.assert_array_equal(found.image, np.arange(len(records)))
    np.testing.assert_array_equal(found.category, np.arange(len(records)))


def test_areas_of_masks_with_boxes_follow_lvis_api(tmp_path):
    """The area of a mask is that of its box, if the first record of the file has one."""
    data, results = make_federated_set(8, masks=True)
    files = save(tmp_path, data, results)
    by_mask = evaluate_files(*files, "segm").metrics()
    rng = np.random.default_rng(0)
    for record in results:
        record["bbox"] = [0, 0, int(rng.integers(1, 150)), int(rng.integers(1, 150))]
    files = save(tmp_path, data, results)
    by_box = evaluate_files(*files, "segm").metrics()
    assert by_box == pytest.approx(dict(judge(*files, "segm").results), rel=0, abs=1e-9)
    assert by_box["APs"] != by_mask["APs"]

    del results[0]["bbox"]
    files = save(tmp_path, data, results)
    assert evaluate_files(*files, "segm").metrics() == by_mask


# --- bad files ------------------------------------------------------------------------------------


def test_missing_files(files, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: no such result file"):
        evaluate_files(files[0], str(tmp_path / "nowhere.json"))
    with pytest.raises(UserError, match=r"nowhere\.json: no such annotation file"):
        evaluate_files(str(tmp_path / "nowhere.json"), files[1])
    with pytest.raises(UserError, match="is a folder"):
        evaluate_files(files[0], str(tmp_path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty"),
        ("{}", "not a JSON list"),
        ("[", "cut off"),
        ("[]]", "not JSON"),
        ("[1,]", "not JSON"),
        ("[{} {}]", "not JSON"),
        ("[[[", "cut off"),
    ],
)
def test_not_a_json_list(content, problem, files):
    with open(files[1], "w") as file:
        file.write(content)
    with pytest.raises(UserError, match=rf"{files[1]}: .*{problem}"):
        evaluate_files(*files)


def test_not_text(files):
    with open(files[1], "wb") as file:
        file.write(b"\x80\x04\x95")
    with pytest.raises(UserError, match="not a JSON text file"):
        evaluate_files(*files)


@pytest.mark.parametrize("end", [-1, -2, -30, 400])
@pytest.mark.parametrize("num_bytes", [100, 1 << 20])
def test_cut_off_file(end, num_bytes, files, iou_type, monkeypatch):
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", num_bytes)
    with open(files[1]) as file:
        text = file.read()
    with open(files[1], "w") as file:
        file.write(text[:end])
    with pytest.raises(UserError, match=rf"{files[1]}: is (cut off|not JSON) \(line 1, column"):
        evaluate_files(*files, iou_type)


BAD_FIELDS = [
    ("image_id", None, "'image_id' that is not in"),
    ("image_id", "7", "'image_id' that is not in"),
    ("image_id", 1.5, "'image_id' that is not in"),
    ("image_id", True, "'image_id' that is not in"),
    ("image_id", -1, "'image_id' that is not in"),
    ("image_id", 10**30, "'image_id' that is not in"),
    ("category_id", 0, "'category_id' that is not in"),
    ("category_id", [1], "'category_id' that is not in"),
    ("score", "0.5", "'score' that is no number"),
    ("score", None, "'score' that is no number"),
    ("score", True, "'score' that is no number"),
    ("score", float("nan"), "'score' that is no number"),
    ("score", 10**400, "'score' that is no number"),
]
BAD_BOXES = [
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [1, 2, 3, "4"],
    [1, 2, 3, None],
    [1, 2, 3, float("inf")],
    [1, 2, 3, 10**400],
    [[1], [2], [3], [4]],
    {"x": 1, "y": 2, "w": 3, "h": 4},
    "1234",
    None,
]
BAD_MASKS = [
    None,
    [[1, 1, 5, 1, 5, 5]],
    {"size": [1, 1], "counts": "1"},
    {"counts": "1"},
    {"size": "image", "counts": [5, 5]},
    {"size": "image", "counts": "é"},
]


def refused(files, data, results, index, iou_type, problem):
    with open(files[1], "w") as file:
        json.dump(results, file)
    with pytest.raises(UserError, match=rf"{files[1]}: record {index} .*{problem}"):
        evaluate_files(*files, iou_type)


@pytest.mark.parametrize(("field", "value", "problem"), BAD_FIELDS)
def test_bad_fields_are_named(field, value, problem, example, files, iou_type):
    data, results = example
    results = [*results]
    results[3] = {**results[3], field: value}
    refused(files, data, results, 3, iou_type, rf"{problem}.*: \{{'{field}': ")


@pytest.mark.parametrize("value", BAD_BOXES)
def test_bad_boxes_are_named(value, tmp_path):
    data, results = make_federated_set(0)
    results[-1] = {**results[-1], "bbox": value}
    problem = "'bbox' that is not"
    refused(save(tmp_path, data, results), data, results, len(results) - 1, "bbox", problem)


@pytest.mark.parametrize("value", BAD_MASKS)
def test_bad_masks_are_named(value, tmp_path):
    data, results = make_federated_set(0, masks=True)
    if isinstance(value, dict) and value.get("size") == "image":
        value = {**value, "size": results[4]["segmentation"]["size"]}
    results[4] = {**results[4], "segmentation": value}
    refused(save(tmp_path, data, results), data, results, 4, "segm", "not compressed RLE")


@pytest.mark.parametrize("counts", ["", "5", "~", "W"])
def test_masks_that_do_not_fill_their_image(counts, tmp_path):
    """pycocotools would never return from the IoU of two masks of different totals."""
    data, results = make_federated_set(0, masks=True)
    annotation = data["annotations"][0]
    results[0].update(image_id=annotation["image_id"], category_id=annotation["category_id"])
    image = next(i for i in data["images"] if i["id"] == annotation["image_id"])
    size = [image["height"], image["width"]]
    results[0]["segmentation"] = {"size": size, "counts": counts}
    files = save(tmp_path, data, results)
    with pytest.raises(UserError, match=rf"{files[1]}: image {image['id']}: a detected mask of"):
        compare_files(files[0], [files[1]], "segm")


@pytest.mark.parametrize("record", [5, None, "text", [], {}])
def test_records_must_be_objects(record, example, files, iou_type):
    data, results = example
    refused(files, data, [record, *results], 0, iou_type, "is not an object with a field")
    refused(files, data, [*results, record], len(results), iou_type, "is not an object with")


def test_results_of_the_other_kind(tmp_path):
    files = save(tmp_path, *make_federated_set(0))
    with pytest.raises(UserError, match=r"record 0 .*'segmentation'"):
        evaluate_files(*make_masks(files), "segm")
    files = save(tmp_path, *make_federated_set(0, masks=True))
    with pytest.raises(UserError, match=r"record 0 .*'bbox'"):
        evaluate_files(*files, "bbox")


def make_masks(files):
    """Give an annotation file masks, but not the results."""
    with open(files[0]) as file:
        data = json.load(file)
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    with open(files[0], "w") as file:
        json.dump(data, file)
    return files


def test_record_numbers_count_from_the_start_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", 1000)
    data, results = make_federated_set(1)
    index = len(results) - 5
    results[index]["score"] = None
    files = save(tmp_path, data, results)
    refused(files, data, results, index, "bbox", "'score'")


def test_no_records(example, files, iou_type):
    with open(files[1], "w") as file:
        file.write(" [ ] ")
    truth = read_ground_truth(files[0], with_masks=iou_type == "segm")
    assert len(read_results(files[1], truth, iou_type).score) == 0
    assert evaluate_files(*files, iou_type).metrics()["AP"] == 0


def test_unknown_iou_type(files):
    with pytest.raises(UserError, match="'keypoints'"):
        compare_files(files[0], [files[1]], "keypoints")
