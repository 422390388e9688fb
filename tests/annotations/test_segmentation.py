"""What is handed to pycocotools, and what would end the interpreter."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mmdet_eql.annotations.segmentation import segmentation_problem
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
        dataset = build_dataset(minilvis, ann_file=str(tmp_path / "train.json"), pipeline=[])
        if segmentation is None:
            assert dataset[0]["img_id"] == image_id
        else:
            with pytest.raises(UserError, match=f"image {image_id} has an annot"):
                dataset[0]
