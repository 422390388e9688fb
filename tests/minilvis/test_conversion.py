"""MiniLVIS as a COCO set and in the layout of Open Images holds what MiniLVIS holds."""

import csv
import json

import numpy as np
import pytest

from mmdet_eql.datasets import CountedOpenImagesChallengeDataset
from mmdet_eql.minilvis.conversion import write_as_coco, write_as_open_images
from mmdet_eql.utils.errors import UserError
from tests.conftest import CONFIGS, build_dataset

SPLITS = {"train": "train", "val": "validation"}
WRITERS = {"coco": write_as_coco, "openimages": write_as_open_images}


def contents(folder) -> dict:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".jpg"
    }


@pytest.mark.parametrize("split", SPLITS)
def test_a_coco_set_has_nothing_that_only_lvis_has(split, minilvis, minilvis_coco):
    ours = json.loads((minilvis_coco / "annotations" / f"{split}.json").read_text())
    lvis = json.loads((minilvis / "annotations" / f"minilvis_{split}.json").read_text())
    assert all(set(record) == {"id", "name"} for record in ours["categories"])
    for image in ours["images"]:
        assert not {"neg_category_ids", "not_exhaustive_category_ids", "coco_url"} & set(image)
        assert (minilvis_coco / split / image["file_name"]).is_file()
    for mine, other in zip(ours["annotations"], lvis["annotations"], strict=True):
        assert mine == {**other, "iscrowd": 0}


@pytest.mark.parametrize("split", SPLITS)
def test_open_images_has_the_same_boxes_and_verified_labels(split, minilvis, minilvis_openimages):
    name = SPLITS[split]
    start = f"challenge2019/challenge-2019-{name}-"
    ours = CountedOpenImagesChallengeDataset(
        data_root=str(minilvis_openimages),
        ann_file=f"{start}detection-bbox.txt",
        data_prefix=dict(img="OpenImages/" + ("train/" if split == "train" else "")),
        label_file="challenge2019/cls-label-description.csv",
        hierarchy_file="challenge2019/class_label_tree.np",
        meta_file=f"{start}metas.pkl",
        image_level_ann_file=f"{start}detection-human-imagelabels.csv",
    )
    lvis = build_dataset(minilvis, ann_file=f"annotations/minilvis_{split}.json")
    assert tuple(ours.metainfo["classes"]) == tuple(lvis.metainfo["classes"])
    assert ours.class_frequency.image_count.tolist() == lvis.class_frequency.image_count.tolist()
    assert np.array_equal(ours.metainfo["RELATION_MATRIX"], np.eye(len(ours.metainfo["classes"])))
    assert len(ours) == len(lvis)
    for index in range(len(ours)):
        mine, other = ours.get_data_info(index), lvis.get_data_info(index)
        with open(mine["img_path"], "rb") as image, open(other["img_path"], "rb") as same:
            assert image.read() == same.read()
        assert [box["bbox_label"] for box in mine["instances"]] == [
            box["bbox_label"] for box in other["instances"]
        ]
        for box, same in zip(mine["instances"], other["instances"], strict=True):
            assert box["bbox"] == pytest.approx(same["bbox"], abs=1e-3)
        known = dict(zip(mine["image_level_labels"], mine["confidences"], strict=True))
        assert known == {
            **dict.fromkeys(other["positive_labels"], 1),
            **dict.fromkeys(other["negative_labels"], 0),
        }


def test_the_tool_writes_what_the_configs_read(
    minilvis, minilvis_openimages, call_tool, tmp_path, monkeypatch
):
    (tmp_path / "minilvis").symlink_to(minilvis)
    monkeypatch.setenv("MMDET_EQL_DATA", str(tmp_path))
    result = call_tool("datasets/convert_minilvis.py", "openimages", check=True)
    assert "minilvis_openimages: written" in result.stdout
    assert contents(tmp_path / "minilvis_openimages") == contents(minilvis_openimages)
    with open(
        tmp_path / "minilvis_openimages" / "challenge2019" / "cls-label-description.csv", newline=""
    ) as file:
        assert [int(label) for *_, label in csv.reader(file)] == list(range(1, 13))
    data = CONFIGS / "_base_" / "datasets"
    for name in WRITERS:
        assert f"/minilvis_{name}/" in (data / f"minilvis_{name}.py").read_text()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_again_and_mistakes(write, minilvis, tmp_path):
    for _ in range(2):
        write(minilvis, tmp_path / "again")
    with pytest.raises(UserError, match=r"make_minilvis\.py"):
        write(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name in ("train", "OpenImages/train"):
        (tmp_path / "taken" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="remove it") as error:
        write(minilvis, tmp_path / "taken")
    assert "\n" not in str(error.value)
