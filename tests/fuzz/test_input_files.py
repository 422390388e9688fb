"""Spoilt files end in success or in one sentence.

The suite tries a few. For a long run, with other cases each time::

    ulimit -v 9000000; FUZZ_CASES=2500 python -m pytest tests/fuzz

tries 2,500 cases of each kind of file; the limit turns a file that asks for more memory than there
is into a failure.
"""

import json
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope

from mmdet_eql.datasets.image_loading import LoadVerifiedImage
from mmdet_eql.engine.launch import read_config
from mmdet_eql.errors import UserError
from mmdet_eql.evaluation.lvis_results import evaluate_files
from tests.conftest import build_dataset
from tests.fuzz.mutations import spoilt_bytes, spoilt_json

#: Cases of each of the tests below.
CASES = int(os.environ.get("FUZZ_CASES", "60"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize="FUZZ_CASES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TRAIN_PIPELINE = [
    dict(type="LoadVerifiedImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 30.0, 20.0], "score": 0.5},
    {"image_id": 2, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 2.0], "score": 0.25},
    {
        "image_id": 1,
        "category_id": 1,
        "segmentation": {"size": [96, 96], "counts": "Q23j25K2N1O1O001O1O1O001O1O2N_fj0"},
        "score": 0.75,
    },
]


def ends_well(action) -> None:
    """Run something that may refuse its input, in one sentence."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            action()
    except UserError as error:
        sentence = str(error)
        assert sentence
        assert "\n" not in sentence
        assert len(sentence) < 2000


@pytest.fixture(scope="module")
def few(minilvis, train_annotations) -> dict:
    """Three images of the tiny set with all that belongs to them."""
    init_default_scope("mmdet")
    images = train_annotations["images"][:3]
    ids = {image["id"] for image in images}
    annotations = [a for a in train_annotations["annotations"] if a["image_id"] in ids]
    return {**train_annotations, "images": images, "annotations": annotations}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


def spoilt(content):
    whole = json.dumps(content).encode()
    return st.one_of(spoilt_json(content), spoilt_json(content), spoilt_bytes(whole))


@fuzz
@given(data=st.data(), test_mode=st.booleans())
def test_annotations(few, minilvis, file, data, test_mode):
    file.write_bytes(data.draw(spoilt(few)))

    def read():
        dataset = build_dataset(
            minilvis,
            ann_file=str(file),
            pipeline=TRAIN_PIPELINE,
            test_mode=test_mode,
            filter_cfg=dict(filter_empty_gt=True),
        )
        for index in range(min(len(dataset), 3)):
            item = dataset[index]
            boxes = item["data_samples"].gt_instances.bboxes.tensor
            assert np.isfinite(boxes.numpy()).all()

    ends_well(read)


@fuzz
@given(data=st.data(), iou_type=st.sampled_from(["bbox", "segm"]))
def test_results(few, file, data, iou_type):
    truth = file.with_name("truth")
    truth.write_text(json.dumps(few))
    ids = [image["id"] for image in few["images"]]
    records = [r for r in RESULTS if ("bbox" in r) == (iou_type == "bbox")]
    records = [{**record, "image_id": ids[i]} for i, record in enumerate(records)]
    file.write_bytes(data.draw(spoilt(records)))
    ends_well(lambda: evaluate_files(str(truth), str(file), iou_type))


@fuzz
@given(data=st.data(), iou_type=st.sampled_from(["bbox", "segm"]))
def test_ground_truth(few, file, data, iou_type):
    results = file.with_name("results")
    results.write_text("[]")
    file.write_bytes(data.draw(spoilt(few)))
    ends_well(lambda: evaluate_files(str(file), str(results), iou_type))


@fuzz
@given(data=st.data(), extension=st.sampled_from([".jpg", ".png"]))
def test_images(file, data, extension):
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    file.write_bytes(data.draw(spoilt_bytes(cv2.imencode(extension, picture)[1].tobytes())))
    loader = TRANSFORMS.build(dict(type="LoadVerifiedImage"))
    assert isinstance(loader, LoadVerifiedImage)
    results = {"img_path": str(file), "height": 24, "width": 32}
    ends_well(lambda: loader(results))


@fuzz
@given(data=st.data(), extension=st.sampled_from([".json", ".yaml"]))
def test_configs(file, data, extension):
    # A Python config is a program, which may do anything when it is spoilt.
    config = {"model": {"type": "MaskRCNN", "num_classes": 12}, "train_cfg": {"max_iters": 4}}
    path = file.with_suffix(extension)
    path.write_bytes(data.draw(spoilt(config)))
    ends_well(lambda: read_config(str(path)))
