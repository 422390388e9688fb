"""Two ways from JSON to columns, which agree."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdet_eql.annotations.checks import load_lvis_json
from mmdet_eql.annotations.reader import UndecodableError, columns_of, decode_columns
from mmdet_eql.utils import json_pieces
from mmdet_eql.utils.errors import UserError
from tests.fuzz.mutations import spoilt_json

SEGMENTATIONS = [
    [[1, 2, 4, 2, 4, 6]],
    [[1.5, 2.25, 4.125, 2, 4, 6.1], [0, 0, 9, 0, 9, 9, 0.1, 9]],
    [[1, 2, 4, 2, 4, 6], [1, 2], []],
    [[1, 2]],
    [[]],
    [],
    None,
    {},
    "}, {",
    {"size": [10, 20], "counts": "\u00e9}, {"},
    {"size": [10, 20], "counts": [3, 197]},
    [[2**60, 1, 2, 3, 4, 5]],
    [[10**320, 1, 2, 3, 4, 5]],
    [[True, 1, 2, 3, 4, 5]],
]
#: Those that are fit for an image of 10 x 20 pixels.
USABLE = {json.dumps(one): one for one in (*SEGMENTATIONS[:2], SEGMENTATIONS[10])}
USABLE[json.dumps(SEGMENTATIONS[2])] = SEGMENTATIONS[2][:1]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("decoding") / "annotations.json"


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", 100)


def carefully(file):
    return columns_of(load_lvis_json(str(file)), str(file))


def segmentations(columns, image=slice(None)):
    of_image = columns.annotations(image) if isinstance(image, int) else image
    return [columns.segmentation(i) for i in range(len(columns.category))[of_image]]


def assert_equal(ours, expected):
    assert ours.about() == expected.about()
    for name, array in expected.arrays().items():
        if not name.startswith("segmentation"):
            np.testing.assert_array_equal(getattr(ours, name), array, strict=True, err_msg=name)
    # Their JSON may be spaced in another way.
    assert segmentations(ours) == segmentations(expected)


@st.composite
def annotation_files(draw):
    """Sound files, with what is unusual in one."""
    category_ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True))
    image_ids = draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4, unique=True))
    some = st.lists(st.sampled_from(category_ids), max_size=3)
    federated = draw(st.booleans())
    number = st.integers(-9, 30) | st.floats(-9, 30)
    images = [
        {
            "id": image_id,
            "height": 10,
            "width": 20,
            **(
                {"neg_category_ids": draw(some), "not_exhaustive_category_ids": draw(some)}
                if federated
                else {}
            ),
            **draw(
                st.sampled_from(
                    [
                        {"coco_url": "http://a/b/train2017/1.jpg", "file_name": "2.jpg"},
                        {"coco_url": "", "file_name": "a}, {b.jpg"},
                        {"file_name": "\u00e9/1.jpg", "extra": [{"a": 1}, {"b": 2}]},
                    ]
                )
            ),
        }
        for image_id in image_ids
    ]
    annotations = [
        {
            "id": number_of,
            "image_id": draw(st.sampled_from(image_ids)),
            "category_id": draw(st.sampled_from(category_ids)),
            "bbox": draw(st.lists(number, min_size=4, max_size=4)),
            "area": draw(number),
            **draw(st.fixed_dictionaries({}, optional={"iscrowd": st.integers(0, 1)})),
            **draw(st.sampled_from([{}, {"ignore": True}, {"ignore": "1"}, {"ignore": None}])),
            **draw(st.sampled_from([{"segmentation": value} for value in SEGMENTATIONS] + [{}])),
        }
        for number_of in range(draw(st.integers(0, 8)))
    ]
    categories = [{"id": i, "name": f"{i}", "frequency": "r"} for i in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=annotation_files(), indent=st.sampled_from([None, 1]))
def test_both_ways_agree(file, short_pieces, data, indent):
    file.write_text(json.dumps(data, indent=indent))
    expected = carefully(file)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    assert expected.category_name == tuple(category["name"] for category in categories)
    for image, record in enumerate(data["images"]):
        mine = [a for a in data["annotations"] if a["image_id"] == record["id"]]
        given = [a.get("segmentation") for a in mine]
        assert segmentations(expected, image) == [USABLE.get(json.dumps(one)) for one in given]
        here = expected.annotations(image)
        assert expected.annotation_id[here].tolist() == [a["id"] for a in mine]
        assert expected.box[here].tolist() == [a["bbox"] for a in mine]
        assert expected.crowd[here].tolist() == [bool(a.get("iscrowd")) for a in mine]
        assert expected.ignored[here].tolist() == [bool(a.get("ignore")) for a in mine]
        absent = [categories[i]["id"] for i in expected.negatives(image)]
        assert absent == record.get("neg_category_ids", [])
        unsure = slice(*expected.not_exhaustive_start[image : image + 2])
        incomplete = [categories[i]["id"] for i in expected.not_exhaustive[unsure]]
        assert incomplete == record.get("not_exhaustive_category_ids", [])
    assert expected.federated == ("neg_category_ids" in data["images"][0])
    try:
        assert_equal(decode_columns(str(file), str(file)), expected)
    except UndecodableError:
        # A cut between what only looks like two records.
        assert b"}, {" in file.read_bytes() or b"},\n" in file.read_bytes()


def test_minilvis_is_decoded(minilvis, short_pieces):
    path = minilvis / "annotations" / "minilvis_train.json"
    assert_equal(decode_columns(str(path), str(path)), carefully(path))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_decoded_is_sound(file, train_annotations, data):
    images = train_annotations["images"][:2]
    ids = {image["id"] for image in images}
    annotations = [a for a in train_annotations["annotations"] if a["image_id"] in ids]
    few = {**train_annotations, "images": images, "annotations": annotations}
    file.write_bytes(data.draw(spoilt_json(few)))
    try:
        columns = decode_columns(str(file), str(file))
    except (UndecodableError, UserError):
        return
    assert_equal(columns, carefully(file))
