"""One pass over a data set that has every flaw, and over one that has none."""

import json
import runpy
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdet_eql.analysis.data_check import check_image
from tests.annotations.own_files import (
    HEIGHT,
    OBJECTS,
    WIDTH,
    by_script,
    uncompressed_rle,
    write_images,
)
from tests.conftest import REPOSITORY, minilvis_config


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    (tmp_path / "train.json").write_text(json.dumps(by_script()))
    return tmp_path


@pytest.fixture
def check(folder, monkeypatch, capsys):
    """Run the tool in this process; return its status, what it printed and what it found."""

    def run(*args) -> tuple[int, str, list[dict]]:
        out = folder / "found.json"
        argv = ["check.py", *map(str, args), "--out", str(out), "--workers", "2"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(REPOSITORY / "tools" / "datasets" / "check.py"), run_name="__main__")
        found = json.loads(out.read_text()) if out.exists() else []
        return end.value.code, capsys.readouterr().out, found

    return run


def by_kind(found: dict) -> dict[str, list[str]]:
    return {finding["what"]: finding["places"] for finding in found["findings"]}


def test_a_good_set_passes(folder, check):
    status, text, (found,) = check(folder / "train.json", folder / "images")
    assert (status, found["findings"]) == (0, [])
    assert "4 images, 20 annotations, 3 categories" in text
    assert "all well" in text


def test_every_flaw_is_found(folder, check):
    data, images = by_script(), folder / "images"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise)[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    (images / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (images / "endless.jpg").write_bytes(jpeg[:-2])
    Image.fromarray(noise).save(images / "turned.jpg", exif=exif)
    cv2.imwrite(str(images / "deep.png"), noise.astype(np.uint16) * 200)
    cv2.imwrite(str(images / "small.png"), noise[:9])
    (images / "copy.png").write_bytes((images / "1.png").read_bytes())
    names = ["cut.jpg", "endless.jpg", "turned.jpg", "deep.png", "small.png", "copy.png"]
    for name in [*names, "gone.png"]:
        record = {**data["images"][0], "id": 10 + len(data["images"]), "file_name": name}
        data["images"].append(record)
    annotations = data["annotations"]
    annotations[0]["bbox"] = [3, 4, 0.5, 9]
    annotations[5]["segmentation"] = [[1, 2, 3, 4]]
    annotations[6]["segmentation"] = {"size": [9, 9], "counts": [81]}
    annotations[8]["segmentation"] = uncompressed_rle((2, 2, 9, 9))
    annotations[9]["segmentation"] = [[2, 2, 5, 2, 5, 5]]
    annotations.append({**annotations[7], "id": 99})
    (folder / "train.json").write_text(json.dumps(data))
    status, text, (found,) = check(folder / "train.json", images)
    kinds = by_kind(found)
    assert status == 1
    assert kinds["dropped: narrower than a pixel"] == ["annotation 1"]
    assert kinds["segmentation cannot be used"] == ["annotation 6", "annotation 7"]
    assert kinds["annotated twice: same class, IoU above 0.95"] == ["annotation 8", "annotation 99"]
    expected = {
        "missing image": ["gone.png"],
        "damaged image": ["cut.jpg"],
        "image of another size than annotated": ["turned.jpg", "small.png"],
        "image of more than 8 bits": ["deep.png"],
        "one file under two names": ["copy.png"],
    }
    for kind, files in expected.items():
        assert [place.split(":")[0].rpartition("/")[2] for place in kinds[kind]] == files, kind
    assert (
        "color_type='color_ignore_orientation'" in kinds["image of another size than annotated"][0]
    )
    at_2 = {9: "[2, 2, 9, 9]", 10: "[2, 2, 3, 3]"}
    elsewhere = kinds["segmentation elsewhere than its box"]
    assert elsewhere == [f"annotation {i}: extends over {at}" for i, at in at_2.items()]
    assert len(kinds) == 9
    assert "! missing image" in text


def test_a_config_with_all_its_sets(folder, check):
    """The training set has a flaw of the annotations, and shares an image with validation."""
    data = by_script()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    (folder / "train.json").write_text(json.dumps(data))
    val = by_script()
    val["images"], val["annotations"] = val["images"][:1], val["annotations"][:5]
    (folder / "val.json").write_text(json.dumps(val))
    config = f"""
custom_imports = dict(imports=["mmdet_eql"])
dataset = dict(
    type="LVISFormatDataset",
    ann_file="train.json",
    data_root={str(folder)!r},
    data_prefix=dict(img="images/"),
    pipeline=[dict(type="LoadVerifiedImage")],
)
train_dataloader = dict(dataset=dict(type="RepeatDataset", times=2, dataset=dataset))
val_dataloader = dict(dataset=dict(dataset, ann_file="val.json", test_mode=True))
test_dataloader = val_dataloader
"""
    (folder / "config.py").write_text(config)
    status, _, (train, val) = check(folder / "config.py")
    assert status == 1
    (stop,) = by_kind(train)["training would stop"]
    assert "none of its 20 annotations can be trained on" in stop
    assert len(by_kind(train)["ignored: 'iscrowd' is 1"]) == len(OBJECTS)
    assert [*by_kind(val)] == ["in two data sets"]
    assert by_kind(val)["in two data sets"][0].endswith(f"same file as {folder}/images/0.png")


def test_a_published_config(minilvis, check, monkeypatch):
    """Each data set once, though it is used for validation and for testing."""
    monkeypatch.setenv("MMDET_EQL_DATA", str(minilvis.parent))
    status, text, found = check(minilvis_config("eql"))
    assert status == 0, text
    assert [one["ann_file"] for one in found] == [
        f"annotations/minilvis_{split}.json" for split in ("train", "val")
    ]
    assert "60 images" in text


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.full((HEIGHT, WIDTH), 4), None),
        (np.full((HEIGHT, WIDTH), 255), None),
        (np.full((HEIGHT, WIDTH), 5), "labels out of range"),
        (np.zeros((HEIGHT, WIDTH, 3)), "in colors"),
        (np.zeros((9, 9)), "of another size"),
        (None, "missing"),
    ],
)
def test_semantic_maps(folder, labels, words):
    path = folder / "map.png"
    if labels is not None:
        cv2.imwrite(str(path), labels.astype(np.uint8))
    image = str(folder / "images" / "0.png")
    _, problems = check_image(image, (HEIGHT, WIDTH), str(path), num_semantic=5)
    assert [words in what for what, _, _ in problems] == ([True] if words else [])


def test_semantic_maps_of_a_config(folder, check):
    (folder / "maps").mkdir()
    flat = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index, labels in enumerate((flat, np.dstack([flat] * 3), flat + 5)):
        cv2.imwrite(str(folder / "maps" / f"{index}.png"), labels)
    config = f"""
custom_imports = dict(imports=["mmdet_eql"])
model = dict(roi_head=dict(semantic_head=dict(num_classes=5)))
train_dataloader = dict(
    dataset=dict(
        type="LVISFormatDataset",
        ann_file="train.json",
        data_root={str(folder)!r},
        data_prefix=dict(img="images/", seg="maps/"),
        pipeline=[dict(type="LoadAnnotations", with_seg=True)],
    )
)
"""
    (folder / "config.py").write_text(config)
    status, _, (found,) = check(folder / "config.py")
    kinds = by_kind(found)
    assert status == 1
    assert {kind: [place.split(":")[0][-5:] for place in kinds[kind]] for kind in kinds} == {
        "semantic map in colors": ["1.png"],
        "semantic map with labels out of range": ["2.png"],
        "semantic map missing or damaged": ["3.png"],
    }


def test_nothing_to_read(folder, check):
    (folder / "train.json").write_text("{")
    status, _, (found,) = check(folder / "train.json", folder / "images")
    assert status == 1
    assert "is cut off" in by_kind(found)["training would stop"][0]


def test_a_config_that_is_not_there(folder, check):
    assert check(folder / "nowhere.py")[0] == 2
