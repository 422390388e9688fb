"""Spoilt files end in success or in one sentence.

The suite tries a few. For a long run, with other cases each time::

    ulimit -v 9000000; FUZZ_CASES=2500 python -m pytest tests/fuzz

tries 2,500 cases of each kind of file, and 500 of whole configs, all parts of which are built; the
limit turns a file that asks for more memory than there is into a failure.
"""

import contextlib
import io
import json
import os
import warnings
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer

from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.datasets.transforms import LoadVerifiedImage
from mmdet_eql.engine import load_checkpoint_file
from mmdet_eql.engine.config_check import check_config
from mmdet_eql.engine.gradient_file import GradientRecord, load_gradient_record
from mmdet_eql.engine.launch import build_runner, load_config, read_config
from mmdet_eql.evaluation import compare_files
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset
from tests.fuzz.mutations import CONFIG_VALUES, spoilt_bytes, spoilt_json

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
@given(data=st.data())
def test_annotation_caches(few, file, data):
    path = file.with_name("cached.json")
    path.write_text(json.dumps(few))
    expected = read_annotations(str(path))
    (cache,) = file.parent.glob(".mmdet_eql_cache/cached.json.columns")
    content = data.draw(spoilt_bytes(cache.read_bytes()))
    # A new file, since the old one is mapped.
    cache.unlink()
    cache.write_bytes(content)
    columns = read_annotations(str(path))
    assert columns.about() == expected.about()
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(getattr(columns, name), array)


@fuzz
@given(data=st.data(), iou_type=st.sampled_from(["bbox", "segm"]))
def test_results(few, file, data, iou_type):
    truth = file.with_name("truth")
    truth.write_text(json.dumps(few))
    ids = [image["id"] for image in few["images"]]
    records = [r for r in RESULTS if ("bbox" in r) == (iou_type == "bbox")]
    records = [{**record, "image_id": ids[i]} for i, record in enumerate(records)]
    file.write_bytes(data.draw(spoilt(records)))
    ends_well(lambda: compare_files(str(truth), [str(file)], iou_type))


@fuzz
@given(data=st.data(), iou_type=st.sampled_from(["bbox", "segm"]))
def test_ground_truth(few, file, data, iou_type):
    results = file.with_name("results")
    results.write_text("[]")
    file.write_bytes(data.draw(spoilt(few)))
    ends_well(lambda: compare_files(str(file), [str(results)], iou_type))


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
def test_config_files(file, data, extension):
    # A Python config is a program, which may do anything when it is spoilt.
    config = {"model": {"type": "MaskRCNN", "num_classes": 12}, "train_cfg": {"max_iters": 4}}
    path = file.with_suffix(extension)
    path.write_bytes(data.draw(spoilt(config)))
    ends_well(lambda: read_config(str(path)))


@fuzz
@given(data=st.data())
def test_checkpoints(file, data):
    loss = EqualizationLoss(num_classes=3, lambda_=0.01)
    loss.set_class_frequency(torch.tensor([0.5, 0.1, 0.001]))
    whole = io.BytesIO()
    meta = dict(iter=2, epoch=0, dataset_meta=dict(classes=("a", "b", "c")))
    torch.save(dict(meta=meta, state_dict=loss.state_dict(), message_hub={}), whole)
    file.write_bytes(data.draw(spoilt_bytes(whole.getvalue())))
    ends_well(lambda: load_checkpoint_file(str(file)))


@fuzz
@given(
    values=st.lists(
        st.one_of(st.floats(0, 1), st.sampled_from([float("nan"), float("inf"), -1.0, 2.0, 1e300])),
        min_size=3,
        max_size=3,
    )
)
def test_frequencies_in_a_checkpoint(values):
    """What a checkpoint holds in place of frequencies is refused, or gives a finite loss."""
    loss = EqualizationLoss(num_classes=3, lambda_=0.01)
    loss.load_state_dict(dict(class_frequency=torch.tensor(values, dtype=torch.float64)))

    def train():
        assert torch.isfinite(loss(torch.zeros(2, 3), torch.tensor([0, 3])))
        assert all(0 <= value <= 1 for value in values)

    ends_well(train)


@fuzz
@given(data=st.data())
def test_gradient_records(file, data):
    frequency = ClassFrequency(np.array([1, 2]), np.array([1, 3]), 5, ("a", "b"))
    sums = np.ones((3, 1, 2))
    record = GradientRecord("loss", ("roi_head",), frequency, np.arange(3), sums, sums)
    path = file.with_suffix(".npz")
    record.save(path)
    path.write_bytes(data.draw(spoilt_bytes(path.read_bytes())))
    ends_well(lambda: load_gradient_record(path))


class Built(Exception):
    """All that a config names was built."""


class StopBeforeTraining(Hook):
    priority = "VERY_LOW"

    def before_train(self, runner):
        raise Built


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    """A spoilt config may name any folder to write to, as ../../etc/passwd."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    # Formatting a config for the log takes longer than all the rest.
    monkeypatch.setattr(Config, "pretty_text", "")


def start_training(path: Path) -> None:
    """What ``tools/train.py`` does until its first iteration."""
    cfg = load_config(
        Namespace(config=str(path), cfg_options=None, launcher="none", work_dir="w", local_rank=0)
    )
    try:
        check_config(cfg)
        runner = build_runner(cfg, "train", "val")
        runner.register_hook(StopBeforeTraining())
        runner.train()
    finally:
        for logger in MMLogger._instance_dict.values():
            for handler in logger.handlers:
                handler.close()
        for kind in (MMLogger, MessageHub, Visualizer):
            kind._instance_dict.clear()


def test_the_whole_config_is_built(tiny_config, file, in_a_folder):
    path = file.with_suffix(".json")
    path.write_text(json.dumps(tiny_config("eql").to_dict()))
    with pytest.raises(Built):
        start_training(path)


@settings(fuzz, max_examples=max(CASES // 5, 1))
@given(data=st.data())
def test_configs(tiny_config, file, in_a_folder, data):
    """Values of a whole MiniLVIS config, as ``tools/train.py`` builds what it names."""
    path = file.with_suffix(".json")
    path.write_bytes(data.draw(spoilt_json(tiny_config("eql").to_dict(), CONFIG_VALUES)))

    def start():
        with contextlib.suppress(Built):
            start_training(path)

    ends_well(start)
