"""Annotation files that are not what they should be, each told in one sentence."""

import copy
import json

import pytest

from mmdet_eql.annotations.checks import load_lvis_json
from mmdet_eql.utils.errors import UserError

GOOD = {
    "images": [
        {
            "id": 1,
            "height": 10,
            "width": 20,
            "coco_url": "http://images.cocodataset.org/train2017/000000000001.jpg",
            "neg_category_ids": [7],
            "not_exhaustive_category_ids": [],
        }
    ],
    "annotations": [
        {
            "id": 5,
            "image_id": 1,
            "category_id": 3,
            "bbox": [1, 2.5, 3, 4],
            "area": 12,
            "segmentation": [[1, 2, 4, 2, 4, 6]],
        }
    ],
    "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
}


def write(tmp_path, content) -> str:
    path = tmp_path / "annotations.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def change(**edits):
    """GOOD with fields of its only image or annotation set, or removed by the value ``...``."""
    data = copy.deepcopy(GOOD)
    for key, value in edits.items():
        table, _, field = key.partition("__")
        record = data[table][0] if field else data
        if value is ...:
            del record[field or table]
        else:
            record[field or table] = value
    return data


def test_a_good_file_is_returned_as_it_stands(tmp_path):
    assert load_lvis_json(write(tmp_path, GOOD)) == GOOD


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["is empty"]),
        ("hello", ["is not JSON", "line 1"]),
        ('{"images": [{"id": 1}, ', ["cut off"]),
        (json.dumps(GOOD)[:-1], ["cut off"]),
        (json.dumps(GOOD)[:100], ["cut off"]),
        (json.dumps(GOOD)[: json.dumps(GOOD).index("cocodataset")], ["cut off"]),
        (b"\x80\x04\x95", ["not a JSON text file"]),
        (b"\x1f\x8b\x08\x00\xff", ["gzip data is cut off"]),
        ("[" * 100_000, ["nested too deeply"]),
        ([1, 2], ["JSON list"]),
        (change(images=...), ["'images'", "missing"]),
        (change(annotations=...), ["'annotations'", "missing"]),
        (change(categories=...), ["'categories'", "missing"]),
        (change(categories={}), ["'categories'", "not a list"]),
        (change(images=[]), ["'images'", "empty"]),
        (change(annotations=[3]), ["annotations[0]", "not an object"]),
        (change(images__neg_category_ids=...), ["image 1", "'neg_category_ids'"]),
        (
            change(images__not_exhaustive_category_ids=...),
            ["image 1", "'not_exhaustive_category_ids'"],
        ),
        (change(images__neg_category_ids=[99]), ["image 1", "99", "'categories'"]),
        (change(images__neg_category_ids=7), ["'neg_category_ids'", "not a list"]),
        (change(images__coco_url=...), ["coco_url", "file_name"]),
        (change(images__height=0), ["image 1", "height 0"]),
        (change(images__width="20"), ["width '20'"]),
        (change(images__id="one"), ["images[0]", "'one'", "whole numbers"]),
        (change(images=GOOD["images"] * 2), ["id 1 twice"]),
        (change(annotations=GOOD["annotations"] * 2), ["id 5 twice"]),
        (change(annotations__bbox=...), ["annotations[0]", "'bbox'"]),
        (change(annotations__bbox=[1, 2, 3]), ["annotation 5", "bbox [1, 2, 3]"]),
        (change(annotations__bbox=[1, 2, 3, float("nan")]), ["annotation 5", "finite"]),
        (change(annotations__bbox=[1, 2, 3, 10**400]), ["annotation 5", "finite"]),
        (change(annotations__area=float("inf")), ["annotation 5", "area inf"]),
        (change(annotations__image_id=2), ["annotation 5", "image 2"]),
        (change(annotations__category_id=4), ["annotation 5", "category 4"]),
        (change(annotations__category_id=True), ["category True"]),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as error:
        load_lvis_json(path)
    sentence = str(error.value)
    assert path in sentence
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="no such annotation file"):
        load_lvis_json(str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match="is a folder"):
        load_lvis_json(str(tmp_path))
