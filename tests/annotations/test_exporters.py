"""What annotation programs write, from file to metrics: the table of docs/custom-data.md."""

import json

import pytest

from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.utils.errors import UserError
from tests.annotations import own_files
from tests.annotations.own_files import NAMES, OBJECTS
from tests.evaluation.federated_sets import evaluate_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and the same in a folder ``images``."""
    folder = tmp_path_factory.mktemp("exporters") / "data"
    own_files.write_images(folder)
    (folder / "images").symlink_to(folder)
    return folder


def dataset_of(path, folder, with_mask=False, **options) -> LVISFormatDataset:
    pipeline = [
        dict(type="mmdet.LoadVerifiedImage"),
        dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=with_mask),
    ]
    options = {"data_prefix": dict(img=str(folder)), "pipeline": pipeline, **options}
    return LVISFormatDataset(ann_file=str(path), **options)


def write(path, data, encoding="utf-8"):
    path.write_text(json.dumps(data), encoding=encoding)
    return path


def area_of(image: int) -> int:
    return sum(width * height for of, _, (*_, width, height) in OBJECTS if of == image)


@pytest.mark.parametrize(
    ("make", "with_mask"),
    [
        (own_files.by_script, True),
        (own_files.by_cvat, False),
        (own_files.by_label_studio, False),
        (lambda: own_files.by_label_studio("\\"), False),
        (own_files.by_roboflow, False),
        (lambda: own_files.by_roboflow("cat"), False),
        (own_files.by_via, True),
        (own_files.by_pandas, False),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_is_clear_is_taken(folder, tmp_path, make, with_mask, encoding):
    data = make()
    path = write(tmp_path / "train.json", data, encoding)
    dataset = dataset_of(path, folder, with_mask)
    assert dataset.metainfo["classes"] == NAMES
    assert dataset.class_frequency.instance_count.sum() == len(OBJECTS)
    items = [dataset[index] for index in range(len(dataset))]
    trained = [
        (image, NAMES[instance["bbox_label"]], tuple(instance["bbox"]))
        for image, item in enumerate(items)
        for instance in item["instances"]
    ]
    assert trained == [
        (image, name, (x, y, x + width, y + height))
        for image, name, (x, y, width, height) in OBJECTS
    ]
    # Pixels tell the images apart.
    assert [item["img"].flat[0] for item in items] == [0, 40, 80, 120]
    if with_mask:
        assert [item["gt_masks"].masks.sum() for item in items] == [area_of(i) for i in range(4)]
    assert dataset.data_report.num_left == len(OBJECTS)
    assert dataset.data_report.warnings == ()

    results = write(tmp_path / "results.json", own_files.detections(data))
    metrics = evaluate_files(str(path), str(results)).metrics()
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["APs"] == pytest.approx(1)


def test_masks_that_cvat_calls_crowds(folder, tmp_path):
    data = own_files.by_cvat(masks=True)
    path = write(tmp_path / "train.json", data)
    with pytest.raises(UserError, match=r"20 ignored: 'iscrowd' is 1"):
        dataset_of(path, folder, with_mask=True)
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 0
    dataset = dataset_of(write(path, data), folder, with_mask=True)
    assert dataset[0]["gt_masks"].masks.sum() == sum(
        w * h for i, _, (*_, w, h) in OBJECTS if i == 0
    )


def test_files_that_label_studio_serves_from_elsewhere(folder, tmp_path):
    for name, words in (
        ("/data/local-files/0.png", r"image 0 lies at '/data/local-files/0\.png', outside"),
        ("../../label-studio/media/upload/1/0.png", r"image 0 lies at '\.\./.*', outside"),
    ):
        data = own_files.by_label_studio()
        data["images"][0]["file_name"] = name
        with pytest.raises(UserError, match=words):
            dataset_of(write(tmp_path / "train.json", data), folder)


def test_points_of_via(folder, tmp_path):
    data = own_files.by_via()
    data["annotations"][7] |= {"segmentation": [[]], "area": [], "bbox": []}
    with pytest.raises(UserError, match=r"annotation 8 has bbox \[\]; it must be \[x, y, width"):
        dataset_of(write(tmp_path / "train.json", data), folder)


@pytest.mark.parametrize(
    "segmentation", [None, [], [[]], [[1, 2, 3, 4]], [1, 2, 3, 4], "mask.png", {"size": [1, 1]}]
)
def test_boxes_are_trained_whatever_the_segmentation(folder, tmp_path, segmentation):
    data = own_files.by_script()
    for annotation in data["annotations"]:
        annotation["segmentation"] = segmentation
    path = write(tmp_path / "train.json", data)
    assert len(dataset_of(path, folder)[0]["instances"]) == 5
    with pytest.raises(UserError, match=r"annotation of category 'cat' \(id 1; 20 in all\)"):
        dataset_of(path, folder, with_mask=True)


def test_a_degenerate_polygon_beside_good_ones_is_left_out(folder, tmp_path):
    data = own_files.by_script()
    for extra in ([], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]):
        data["annotations"][0]["segmentation"].append(extra)
    dataset = dataset_of(write(tmp_path / "train.json", data), folder, with_mask=True)
    assert dataset[0]["gt_masks"].masks.sum() == area_of(0)
    found = {one.what: one.count for one in dataset.data_report.findings}
    assert found["some polygons left out, with fewer than three points"] == 1


def test_a_single_class_needs_no_comma(folder, tmp_path):
    path = write(tmp_path / "train.json", own_files.by_script())
    dataset = dataset_of(path, folder, metainfo=dict(classes=("cat")))
    assert dataset.metainfo["classes"] == ("cat",)
    assert {*dataset.instance_labels.labels.tolist()} == {0}


def test_the_file_name_wins_where_there_is_such_a_file(folder, tmp_path):
    data = own_files.by_script()
    for image in data["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/000000000001.jpg"
    # This one is found by its URL alone.
    data["images"][3] |= {"file_name": "gone.png", "coco_url": "http://a/images/2.png"}
    dataset = dataset_of(write(tmp_path / "train.json", data), folder)
    assert [dataset[index]["img"].flat[0] for index in range(4)] == [0, 40, 80, 80]
    seg = {"img": str(folder), "seg": "/seg"}
    dataset = dataset_of(tmp_path / "train.json", folder, data_prefix=seg)
    assert dataset.get_data_info(0)["seg_map_path"] == "/seg/0.png"


def test_absolute_file_names_inside_the_image_folder(folder, tmp_path):
    data = own_files.by_script()
    (tmp_path / "link").symlink_to(folder)
    for image in data["images"]:
        image["file_name"] = str(folder / image["file_name"])
    path = write(tmp_path / "train.json", data)
    for root in (folder, tmp_path / "link"):
        dataset = dataset_of(path, root, data_prefix=dict(img=str(root), seg="/seg"))
        assert dataset[1]["img"].flat[0] == 40
        assert dataset.get_data_info(1)["seg_map_path"] == "/seg/1.png"
    data["images"][2]["file_name"] = "/etc/2.png"
    with pytest.raises(UserError, match=r"image 3 lies at '/etc/2.png', outside the image folder"):
        dataset_of(write(path, data), folder)
    for name in ("C:\\pictures\\2.png", "..\\2.png"):
        data["images"][2]["file_name"] = name
        with pytest.raises(UserError, match=r"image 3 lies at .*outside the image folder"):
            dataset_of(write(path, data), folder)
