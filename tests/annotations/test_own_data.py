"""Files of one's own: what would be silently wrong is refused, or reported, with right values."""

import copy
import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_eql.annotations import read_annotations
from mmdet_eql.datasets import DataReportHook, LVISFormatDataset
from mmdet_eql.evaluation.columns import read_ground_truth
from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from mmdet_eql.utils.errors import UserError
from tests.annotations.own_files import HEIGHT, NAMES, OBJECTS, WIDTH, by_script, write_images
from tests.conftest import log_of
from tests.evaluation.federated_sets import evaluate_files


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of four images."""
    folder = tmp_path_factory.mktemp("own") / "train"
    write_images(folder)
    return folder


def edited(edit) -> dict:
    """The file of a careful script, with a function called on each annotation."""
    data = by_script()
    for annotation in data["annotations"]:
        edit(annotation)
    return data


@pytest.fixture
def write(tmp_path):
    def write(data, name="train.json") -> str:
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            path.write_text(json.dumps(data))
        return str(path)

    return write


def dataset_of(path, images, with_mask=False, **options) -> LVISFormatDataset:
    pipeline = [dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=with_mask)]
    options = {"data_prefix": dict(img=str(images)), "pipeline": pipeline, **options}
    return LVISFormatDataset(ann_file=path, **options)


def count(dataset) -> int:
    return len(dataset.instance_labels.labels)


def as_detections(data: dict, shift: int = 0) -> list[dict]:
    return [
        {
            "image_id": int(one["image_id"]),
            "category_id": int(one["category_id"]),
            "bbox": [one["bbox"][0] + shift * (one["id"] % 3), *one["bbox"][1:]],
            "score": 0.5 + one["id"] / 1000,
        }
        for one in data["annotations"]
    ]


def judged(data, records, tmp_path) -> float:
    """AP by COCO's own evaluation."""
    path = tmp_path / "judge.json"
    path.write_text(json.dumps(data))
    truth = COCO(str(path))
    judge = COCOeval(truth, truth.loadRes(copy.deepcopy(records)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def to_fractions(annotation):
    x, y, width, height = annotation["bbox"]
    annotation["bbox"] = [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]


def to_corners(annotation):
    x, y, width, height = annotation["bbox"]
    annotation["bbox"] = [x, y, x + width, y + height]


@pytest.mark.parametrize(
    ("edit", "words"),
    [(to_fractions, r"within \[0, 1\]"), (to_corners, r"seems to be \[x1, y1, x2, y2\]")],
)
def test_boxes_of_another_kind_are_refused(write, images, edit, words):
    path = write(edited(edit))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(UserError, match=words):
            dataset_of(path, images)
        with pytest.raises(UserError, match=words):
            LVISFastMetric(ann_file=path).evaluate(0)


def test_polygons_in_fractions_are_refused(write, images):
    def edit(annotation):
        points = np.reshape(annotation["segmentation"][0], (-1, 2)) / (WIDTH, HEIGHT)
        annotation["segmentation"] = [points.ravel().tolist()]

    path = write(edited(edit))
    assert count(dataset_of(path, images)) == 20
    with pytest.raises(UserError, match=r"polygons lie within \[0, 1\]"):
        dataset_of(path, images, with_mask=True)
    with pytest.raises(UserError, match=r"polygons lie within \[0, 1\]"):
        LVISFastMetric(ann_file=path, metric="segm").evaluate(0)


def test_boxes_that_leave_their_images_are_reported(write, images):
    data = by_script()
    for annotation in data["annotations"]:
        annotation["bbox"][0] += 20
    report = dataset_of(write(data), images).data_report
    finding = next(one for one in report.findings if one.what == "box leaves its image")
    expected = sum(one["bbox"][0] + one["bbox"][2] > WIDTH + 1 for one in data["annotations"])
    assert (finding.count, finding.of) == (expected, 20)
    assert "0.png" in finding.example
    assert any("not corners" in warning for warning in report.warnings)


def test_crowds_alone_are_not_trained_on(write, images):
    path = write(edited(lambda annotation: annotation.update(iscrowd=1)))
    with pytest.raises(UserError, match=r"none of its 20 annotations.*20 ignored: 'iscrowd' is 1"):
        dataset_of(path, images)
    text = log_of(lambda: LVISFastMetric(ann_file=path).evaluate(0))
    assert "has no annotations that count, so that AP is -1" in text
    val = dataset_of(path, images, test_mode=True).data_report
    assert val.num_left == 0
    assert "set it to 0 for single objects" in val.warnings[0]


def test_a_category_of_crowds_alone_is_named(write, images):
    def edit(annotation):
        annotation["iscrowd"] = int(annotation["category_id"] == 2)

    report = dataset_of(write(edited(edit)), images).data_report
    assert any("no annotation is left: 1 of 3, as 'dog'" in text for text in report.warnings)


@pytest.mark.parametrize("flag", ["0", "", None, "false", 0.0, False])
def test_flags_as_text(write, images, flag):
    dataset = dataset_of(write(edited(lambda a: a.update(iscrowd=flag, ignore=flag))), images)
    assert [i["ignore_flag"] for i in dataset.get_data_info(0)["instances"]] == [0] * 5
    path = write(edited(lambda annotation: annotation.update(iscrowd="1")), "crowd.json")
    assert read_annotations(path).crowd.all()
    with pytest.raises(UserError, match=r"annotation 1 has iscrowd 'no'; it must be 0 or 1"):
        read_annotations(write(edited(lambda a: a.update(iscrowd="no")), "no.json"))


@pytest.mark.parametrize("area", [0, -1, None, ...])
def test_an_area_that_is_not_there_is_width_times_height(write, images, area, tmp_path):
    def edit(annotation):
        annotation.pop("area")
        if area is not ...:
            annotation["area"] = area

    data = edited(edit)
    path = write(data)
    dataset = dataset_of(path, images)
    assert count(dataset) == 20
    assert any(
        one.what.startswith("area is width x height") for one in dataset.data_report.findings
    )
    records = as_detections(data, shift=3)
    ours = evaluate_files(path, write(records, "results.json")).metrics()
    assert ours["AP"] == pytest.approx(judged(by_script(), records, tmp_path), abs=1e-9)
    assert 0.2 < ours["AP"] < 0.9
    whole = evaluate_files(
        write(by_script(), "good.json"), write(records, "results.json")
    ).metrics()
    assert ours == whole


def test_what_lvis_api_would_not_count_in_an_lvis_file_is_told(write, images):
    data = edited(lambda annotation: annotation.update(area=0))
    data["annotations"][0].update(area=5, bbox=[3, 4, 0, 9])
    for image in data["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    assert count(dataset_of(write(data), images)) == 19
    with pytest.warns(UserWarning) as warnings:
        truth = read_ground_truth(write(data))
    assert (truth.area == [box[2] * box[3] for _, _, box in OBJECTS[1:]]).all()
    told = " ".join(str(warning.message) for warning in warnings)
    assert "annotation 2 (and 18 more) has no 'area' above 0" in told
    assert "annotation 1 has a box without width or height, which lvis-api counts as missed" in told


def test_images_of_16_bits_are_told(write, images, tmp_path):
    shutil.copytree(images, tmp_path / "deep")
    deep = tmp_path / "deep" / "0.png"
    cv2.imwrite(str(deep), np.zeros((HEIGHT, WIDTH), np.uint16))
    assert f"WARNING {deep}: its pixels are uint16, of which the highest 8 bits" in log_of(
        lambda: dataset_of(write(by_script()), deep.parent)
    )
    assert "bits" not in log_of(lambda: dataset_of(write(by_script()), images))


def test_nothing_to_train_on_stops(write, images):
    narrow = edited(lambda annotation: annotation.update(bbox=[2, 3, 0.5, 9]))
    with pytest.raises(UserError, match="20 dropped: narrower than a pixel, as annotation 1 of"):
        dataset_of(write(narrow), images)
    empty = dataset_of(write({**by_script(), "annotations": []}, "empty.json"), images)
    with pytest.raises(UserError, match=r"empty.json: has no annotations of the classes"):
        DataReportHook().before_train(runner_of(empty))


class SimpleModule(torch.nn.Module):
    image_level_labels = False


def runner_of(train, val=None, work_dir="."):
    return SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=train),
        val_dataloader=SimpleNamespace(dataset=val),
        val_loop=val,
        model=torch.nn.ModuleList([SimpleModule()]),
        logger=MMLogger.get_current_instance(),
        work_dir=str(work_dir),
    )


def test_validation_without_annotations_says_so(write, images, tmp_path):
    path = write({**by_script(), "annotations": []}, "val.json")
    val = dataset_of(path, images, test_mode=True)
    runner = runner_of(dataset_of(write(by_script()), images), val, tmp_path)
    assert "val.json: validation has no annotations that count" in log_of(
        lambda: DataReportHook().before_train(runner)
    )
    text = log_of(lambda: LVISFastMetric(ann_file=path).evaluate(0))
    assert "WARNING" in text
    assert "has no annotations that count, so that AP is -1" in text


def test_images_that_are_trained_and_validated_on_are_named(write, images, tmp_path):
    train = dataset_of(write(by_script()), images, indices=3)
    val = dataset_of(write(by_script(), "val.json"), images, test_mode=True)
    runner = runner_of(train, val, tmp_path)
    text = log_of(lambda: DataReportHook().before_train(runner))
    assert f"val.json: 3 of its {len(val)} images are trained on, too, as {images}" in text
    val.data_list = val.data_list[3:]
    assert "trained on" not in log_of(lambda: DataReportHook().before_train(runner))


def test_frequency_groups_of_another_training_set_are_named(write, images, tmp_path):
    train, data = dataset_of(write(by_script()), images), by_script()
    groups = dict(zip(train.metainfo["classes"], train.class_frequency.group, strict=True))
    for category in data["categories"]:
        category["frequency"] = str(groups[category["name"]])
    for changed in (False, True):
        if changed:
            data["categories"][0]["frequency"] = "f"
        val = dataset_of(write(data, f"{changed}.json"), images, test_mode=True)
        said = log_of(
            lambda val=val: DataReportHook().before_train(runner_of(train, val, tmp_path))
        )
        name = data["categories"][0]["name"]
        assert (f"1 of {len(groups)} categories, as {name!r}, are in other" in said) == changed


def test_image_level_labels_of_a_coco_file_are_missed(write, images, tmp_path):
    runner = runner_of(dataset_of(write(by_script()), images), None, tmp_path)
    assert "WARNING" not in log_of(lambda: DataReportHook().before_train(runner))
    runner.model[0].image_level_labels = True
    said = log_of(lambda: DataReportHook().before_train(runner))
    assert "no image has 'neg_category_ids', so that image_level_labels" in said


@pytest.mark.parametrize("name", ["animal", "cat"])
def test_a_root_category_is_no_class(write, images, name):
    """Roboflow's category 0 is the supercategory of all others, and may have a class's name."""
    data = by_script()
    data["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
    for category in data["categories"][1:]:
        category["supercategory"] = name
    path = write(data)
    dataset = dataset_of(path, images)
    assert dataset.metainfo["classes"] == NAMES
    assert f"no classes  {1:9,}  {name!r}" in dataset.data_report.text()
    assert dataset.annotations.columns.category_id.tolist() == [1, 2, 3]
    ours = evaluate_files(path, write(as_detections(data), "results.json")).metrics()
    assert ours["AP"] == pytest.approx(1)
    if name == "animal":
        with pytest.raises(UserError, match=r"'animal', which 'metainfo.classes' names, has no an"):
            dataset_of(path, images, metainfo=dict(classes=(name, *NAMES)))
    some = dataset_of(path, images, metainfo=dict(classes=("dog",))).data_report
    found = {finding.what: finding.count for finding in some.findings}
    assert found["of a category that is no class"] == 12
    # A supercategory that has annotations is a class, and so is one's own.
    data["annotations"][0]["category_id"] = 0
    assert read_annotations(write(data, "used.json")).category_id.tolist() == [0, 1, 2, 3]
    own = by_script()
    own["categories"].append({"id": 9, "name": "person", "supercategory": "person"})
    assert read_annotations(write(own, "own.json")).category_name[-1] == "person"


def test_roots_alone_and_an_unknown_category(write):
    data = by_script()
    names = [category["name"] for category in data["categories"]]
    for category, other in zip(data["categories"], [names[-1], *names], strict=False):
        category["supercategory"] = other
    for annotation in data["annotations"]:
        annotation["category_id"] = 99
    with pytest.raises(UserError, match="has category 99, which is not in 'categories'"):
        read_annotations(write(data))


def test_more_objects_than_detections_count(write):
    data = by_script()
    data["annotations"] = [
        {
            **data["annotations"][0],
            "id": number + 1,
            "category_id": number % 3 + 1,
            "bbox": [2 * (number % 32), 2 * (number // 32), 2, 2],
        }
        for number in range(400)
    ]
    metric = {}

    def evaluate(**options):
        metric["it"] = LVISFastMetric(ann_file=write(data), **options)
        metric["it"].dataset_meta = dict(classes=NAMES)
        boxes = np.array([a["bbox"] for a in data["annotations"]], dtype=float)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([a["category_id"] - 1 for a in data["annotations"]])
        found = dict(bboxes=boxes, labels=labels, scores=np.linspace(1, 0.5, 400))
        metric["it"].process(None, [dict(img_id=1, pred_instances=found)])
        metric["AP"] = metric["it"].evaluate(4)["lvis/bbox_AP"]

    text = log_of(evaluate)
    assert "image 1 has 400 objects, but only 300 detections" in text
    assert metric["AP"] == pytest.approx(0.75, abs=0.02)
    assert "objects, but only" not in log_of(lambda: evaluate(max_detections=400))
    assert metric["AP"] == pytest.approx(1)
    assert "AR@400" in metric["it"].evaluations["bbox"].metrics()
    with pytest.raises(UserError, match="'max_detections' is 0"):
        evaluate(max_detections=0)


def test_the_report_counts_what_happens(write, images, tmp_path):
    data = by_script()
    annotations = data["annotations"]
    annotations[0]["bbox"] = [3, 4, 0.5, 9]
    annotations[1]["bbox"] = [-30, 4, 20, 9]
    annotations[2]["ignore"] = 1
    annotations[3]["iscrowd"] = 1
    annotations[4]["area"] = 0
    annotations[5]["segmentation"].append([1, 2, 3, 4])
    annotations[6]["segmentation"] = [[1, 2, 3, 4]]
    data["categories"] += [{"id": 9, "name": "gnu"}, {"id": 10, "name": "yak"}]
    data["images"].append({**data["images"][0], "id": 50})
    path = write(data)
    dataset = dataset_of(path, images, filter_cfg=dict(filter_empty_gt=True))
    report = dataset.data_report
    found = {finding.what: (finding.count, finding.of) for finding in report.findings}
    assert found == {
        "annotations in one image, at most": (5, 0),
        "images without an annotation of the classes": (1, 5),
        "images dropped by filter_cfg": (1, 5),
        "images whose file another image has, too": (1, 5),
        "dropped: narrower than a pixel": (1, 20),
        "dropped: outside their image": (1, 20),
        "dropped: marked 'ignore'": (1, 20),
        "ignored: 'iscrowd' is 1": (1, 20),
        "area is width x height, as the file has none": (1, 20),
        "some polygons left out, with fewer than three points": (1, 20),
        "segmentation cannot be used": (1, 20),
        "categories without images": (2, 5),
    }
    assert (report.num_images, report.num_annotations, report.num_left) == (4, 20, 16)
    assert report.warnings == ()
    assert "annotation 1 of image 1 (0.png), bbox [3, 4, 0.5, 9]" in report.text()
    # The same from the cache, and in the work_dir.
    again = dataset_of(path, images, filter_cfg=dict(filter_empty_gt=True)).data_report
    assert again == report
    anew = dataset_of(
        path, images, filter_cfg=dict(filter_empty_gt=True), annotation_cache=False
    ).data_report
    assert anew == report
    text = log_of(lambda: DataReportHook().before_train(runner_of(dataset, None, tmp_path)))
    assert report.text() in text
    assert (tmp_path / "data_report.txt").read_text() == report.text() + "\n"
