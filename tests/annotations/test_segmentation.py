"""What is handed to pycocotools, and what would end the interpreter."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mmdet_eql.annotations.segmentation import (
    NONE,
    PARTLY,
    UNUSABLE,
    WHOLE,
    segmentation_problem,
    segmentation_states,
)
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset

MASK = np.zeros((6, 8), dtype=np.uint8, order="F")
MASK[1:4, 2:5] = 1
COMPRESSED = mask_utils.encode(MASK)["counts"].decode()


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 5, 0, 5, 5.5]],
        [[0, 0, 5, 0, 5, 5], [-3, 1, 9, 1, 4, 4]],
        {"size": [6, 8], "counts": [13, 3, 32]},
        {"size": [6, 8], "counts": COMPRESSED},
    ],
)
def test_sound_segmentations(segmentation):
    assert segmentation_problem(segmentation, 6, 8) is None


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([], "list of polygons"),
        ([[0, 0, 5, 0]], "three points"),
        ([[0, 0, 5, 0, 5]], "three points"),
        ([[0, 0, 5, 0, 5, "5"]], "list of polygons"),
        ([[0, 0, 5, 0, 5, float("nan")]], "list of polygons"),
        ([[0, 0, 5, 0, 5, 1e9]], "pixels of its image"),
        ([[0, 0, 5, 0, 5, 10**400]], "pixels of its image"),
        ("abc", "size of its image"),
        ({"size": [8, 6], "counts": COMPRESSED}, "[6, 8]"),
        ({"size": [6, 8], "counts": [13, 3]}, "fill the 48 pixels"),
        ({"size": [6, 8], "counts": [50, -2]}, "fill the 48 pixels"),
        ({"size": [6, 8], "counts": COMPRESSED[:-1] + "o"}, "fill the 48 pixels"),
        ({"size": [6, 8], "counts": "\u00ff"}, "fill the 48 pixels"),
        ({"size": [6, 8]}, "fill the 48 pixels"),
    ],
)
def test_what_is_none(segmentation, words):
    assert words in segmentation_problem(segmentation, 6, 8)


def test_the_dataset_names_the_image(minilvis, train_annotations, tmp_path):
    data = copy.deepcopy(train_annotations)
    image_id = data["images"][0]["id"]
    mine = next(one for one in data["annotations"] if one["image_id"] == image_id)
    for segmentation in (None, [[1, 2]]):
        mine["segmentation"] = segmentation
        (tmp_path / "train.json").write_text(json.dumps(data))
        ann_file = str(tmp_path / "train.json")
        for pipeline in ([], [dict(type="mmdet.LoadAnnotations", with_bbox=True)]):
            dataset = build_dataset(minilvis, ann_file=ann_file, pipeline=pipeline)
            assert dataset[0]["img_id"] == image_id
        pipeline[0]["with_mask"] = True
        with pytest.raises(UserError, match=f"image {image_id} has an annot.*; 1 in all"):
            build_dataset(minilvis, ann_file=ann_file, pipeline=pipeline)


def test_states():
    texts = {
        "null": NONE,
        "[[]]": NONE,
        "[[1, 2, 3, 4]]": UNUSABLE,
        "[1, 2, 5, 2, 5, 5]": WHOLE,
        "[[1, 2, 5, 2, 5, 5], []]": PARTLY,
        "[[1, 2, 5, 2, 5, 5], [1, 2, 5, 2, 5, 5, 9], [3, 3]]": PARTLY,
        "[[1, 2, 5, 2, 5, 5], [true]]": UNUSABLE,
        "[[1, 2, 5, 2, 5, 500]]": UNUSABLE,
        json.dumps({"size": [6, 8], "counts": COMPRESSED}): WHOLE,
        json.dumps({"size": [6, 8], "counts": [13, 3, 32]}): WHOLE,
        json.dumps({"size": [8, 6], "counts": COMPRESSED}): UNUSABLE,
        json.dumps({"size": [6, 8], "counts": COMPRESSED[:-1] + "o"}): UNUSABLE,
        json.dumps({"size": [6, 8], "counts": "\u00ff"}): UNUSABLE,
        json.dumps({"size": [6, 8], "counts": ""}): UNUSABLE,
    }
    assert dict(zip(texts, states_of([*texts], (6, 8)), strict=True)) == texts


def states_of(texts: list[str], size) -> list[int]:
    joined = np.frombuffer("".join(texts).encode(), np.uint8)
    starts = np.cumsum([0, *(len(text.encode()) for text in texts)])
    return segmentation_states(joined, starts, np.array([size] * len(texts))).tolist()


def test_plain_polygons_are_told_without_decoding():
    """Alone or among others, in an image of any size, with any spaces."""
    texts = {
        "[[1, 2, 5, 2, 5, 5]]": WHOLE,
        "[[1,2,5,2,5,5.25],[-0.5,2,5,2.12345678,555.5,5,7,8]]": WHOLE,
        "[[1, 2, 5, 2, 5, 1000]]": WHOLE,
        "[[1, 2, 5, 2, 5, 2000.5]]": UNUSABLE,
        "[[1, 2, 5, 2, 5, 1e1]]": WHOLE,
        "[[1, 2, 5, 2, 5, 1E3], [4, 5]]": PARTLY,
        "[ [1, 2, 5, 2, 5, 5 ] ]": WHOLE,
        "[[1, 2, 5, 2, 5, 5], []]": PARTLY,
        "[[], [1, 2, 5, 2, 5, 5]]": PARTLY,
        "[[1, 2, 5, 2, 5, 5, 6]]": UNUSABLE,
        "[[[1, 2, 5, 2, 5, 5]]]": UNUSABLE,
        "[1, 2, 5, 2, 5, 5]": WHOLE,
        "[[1, 2, 5, 2, 5, null]]": UNUSABLE,
        '[[1, 2, 5, 2, 5, 5], "[1, 2"]': UNUSABLE,
        '"[[1, 2, 5, 2, 5, 5]]"': UNUSABLE,
        "[]": NONE,
        "null": NONE,
    }
    rng = np.random.default_rng(0)
    expected = [*texts.items()]
    chosen = [expected[index] for index in rng.integers(0, len(expected), 500)]
    for some in (*([one] for one in expected), expected, chosen, expected[:2] * 50):
        names = [text for text, _ in some]
        assert states_of(names, (100, 60)) == [state for _, state in some]
