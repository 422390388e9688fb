"""Features of a config's data: whole, by parts, by ranks, and what is refused."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger

from mmdet_eql.decoupled import FeatureSplit, feature_extraction
from mmdet_eql.decoupled.feature_extraction import cache_features, check_classes, split_configs
from mmdet_eql.engine import ClassListHook
from mmdet_eql.utils.errors import UserError
from tests.conftest import TINY, build_dataset, log_of, minilvis_config, tiny_options

C, TRAIN, VAL, PER_SHARD = TINY.num_categories, 26, 10, 7


@pytest.fixture(scope="module")
def checkpoint(minilvis, tmp_path_factory):
    """A detector with random weights."""
    cfg = read(minilvis)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    path = tmp_path_factory.mktemp("checkpoint") / "epoch_1.pth"
    save(model.state_dict(), build_dataset(minilvis).metainfo["classes"], path)
    return path


def read(minilvis) -> Config:
    cfg = Config.fromfile(minilvis_config("eql"))
    cfg.merge_from_dict(tiny_options(minilvis))
    cfg.launcher = "none"
    cfg.train_dataloader.dataset.indices, cfg.val_dataloader.dataset.indices = TRAIN, VAL
    return cfg


def save(weights, classes, path) -> None:
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=tuple(classes)))), path)


@pytest.fixture
def make_config(minilvis, checkpoint, tmp_path):
    def make(**options) -> Config:
        # mmengine has one visualizer of a name in a process, which writes where the first run did.
        DetLocalVisualizer._instance_dict.clear()
        cfg = read(minilvis)
        cfg.merge_from_dict({"model.roi_head.bbox_head.reg_class_agnostic": False, **options})
        cfg.load_from, cfg.work_dir = str(checkpoint), str(tmp_path / "work_dir")
        cfg.experiment_name = tmp_path.name
        return cfg

    return make


@pytest.fixture(scope="module")
def whole(minilvis, checkpoint, tmp_path_factory):
    """The cache that one rank makes in one go."""
    cfg, folder = read(minilvis), tmp_path_factory.mktemp("features")
    cfg.load_from, cfg.work_dir = str(checkpoint), str(folder / "logs")
    cache_features(cfg, folder, "float32", rois=512, images_per_shard=PER_SHARD)
    return folder


def test_items_are_those_of_the_datasets(whole, minilvis):
    features, dataset = FeatureSplit(whole), DATASETS.build(split_of(minilvis, "train"))
    assert len(features) == len(dataset) == TRAIN
    assert features.description.classes == list(dataset.metainfo["classes"])
    counts = features.description.splits["train"].instance_count
    assert counts == dataset.class_frequency.instance_count.tolist()
    seen = set()
    for item in range(len(dataset)):
        info, rows = dataset.get_data_info(item), features.rows(item)
        assert features.image_ids[item] == features.metainfo[item]["img_id"] == info["img_id"]
        # The objects are RoIs themselves, and there is room for all.
        labels = {instance["bbox_label"] for instance in info["instances"]}
        assert set(rows["labels_0"].tolist()) - {C} == labels
        assert len(rows["labels_0"]) == len(rows["rois_0"]) <= 512
        seen |= labels
    assert C - 1 in seen
    assert not (whole / "train_flipped").exists()


def split_of(minilvis, split, flips=False):
    return split_configs(read(minilvis), flips)[split]


def test_validation_gives_the_scores_of_the_detector(whole, checkpoint, minilvis):
    """In the order of the data set, though images go through the detector by their size."""
    features, cfg = FeatureSplit(whole, "val"), read(minilvis)
    assert len(features) == VAL
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(checkpoint)["state_dict"], strict=False)
    dataset, head = DATASETS.build(cfg.val_dataloader.dataset), model.roi_head.bbox_head
    for item in (0, VAL - 1):
        data = model.data_preprocessor(pseudo_collate([dataset[item]]), False)
        with torch.no_grad():
            x = model.extract_feat(data["inputs"])
            proposals = model.rpn_head.predict(x, data["data_samples"], rescale=False)
            scores, _ = model.roi_head.forward(x, proposals, data["data_samples"])[:2]
            ours = head.fc_cls(torch.from_numpy(features.rows(item)["features_0"].copy()))
        torch.testing.assert_close(ours, scores, rtol=1e-4, atol=1e-4)
        metainfo = data["data_samples"][0].metainfo
        for key in ("img_id", "ori_shape", "img_shape", "scale_factor"):
            assert features.metainfo[item][key] == metainfo[key]


def test_other_validation_images_with_the_same_ids_are_refused(whole, minilvis, tmp_path):
    dataset = read(minilvis).val_dataloader.dataset
    config = dict(type="FeatureDataset", features=str(whole), split="val", dataset=dataset)
    assert len(DATASETS.build(config)) == VAL
    data = json.loads(Path(dataset.data_root, dataset.ann_file).read_bytes())
    names = [image["file_name"] for image in data["images"]]
    for image, name in zip(data["images"], names[1:] + names[:1], strict=True):
        image["file_name"] = name
    dataset.ann_file = str(tmp_path / "other.json")
    Path(dataset.ann_file).write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"come from a file of [\d,]+ bytes, and .* has [\d,]+;"):
        DATASETS.build(config)


def arrays_of(folder, split) -> dict[str, np.ndarray]:
    paths = sorted((folder / split).glob("*/*.npy"))
    return {str(path.relative_to(folder)): np.load(path) for path in paths}


def test_ranks_share_the_shards_and_go_on_where_one_stopped(
    whole, make_config, tmp_path, monkeypatch, capsys
):
    options = dict(dtype="float32", rois=512, images_per_shard=PER_SHARD)
    expected = {split: arrays_of(whole, split) for split in ("train", "val")}
    assert len(expected["train"]) == 4 * 5
    for rank in (0, 1):
        monkeypatch.setattr(feature_extraction, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(feature_extraction, "get_world_size", lambda: 2)
        cache_features(make_config(), tmp_path / str(rank), **options)
    parts = [arrays_of(tmp_path / str(rank), "train") for rank in (0, 1)]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0].keys() | parts[1].keys() == expected["train"].keys()
    monkeypatch.undo()
    # What rank 0 has left, with fewer images in a batch.
    (tmp_path / "0" / "train" / ".00001.tmp").mkdir()
    cfg = make_config(**{"train_dataloader.batch_size": 1})
    cache_features(cfg, tmp_path / "0", **options)
    done = "train: 12 images (14 more are there) x 512 RoIs; val: 3 images (7 more are there)"
    assert done in capsys.readouterr().out
    for split, arrays in expected.items():
        found = arrays_of(tmp_path / "0", split)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3, err_msg=name)


def test_another_request_is_refused_by_the_tool(
    whole, make_config, call_tool, checkpoint, tmp_path
):
    make_config().dump(tmp_path / "config.py")
    options = ("--out", whole, "--rois", 16, "--dtype", "float32")
    result = call_tool("cache_features.py", tmp_path / "config.py", checkpoint, *options)
    assert result.returncode == 2
    assert "rcnn.sampler.num is 512 there and 16 now; give another --out" in result.stderr


def test_too_little_room_is_refused_beforehand(make_config, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(1e5)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"take up to \d+ MB, and 0 MB are free"):
        cache_features(make_config(), tmp_path)
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize(
    ("boxes", "masks", "sentence"),
    [(True, True, None), (False, True, "its boxes are"), (False, False, "its boxes and masks are")],
)
def test_a_checkpoint_of_other_classes(boxes, masks, sentence):
    hook, logger = ClassListHook(), MMLogger.get_current_instance()
    heads = dict(
        bbox_head=SimpleNamespace(reg_class_agnostic=boxes, num_classes=2),
        mask_head=SimpleNamespace(class_agnostic=masks),
    )
    model = SimpleNamespace(roi_head=SimpleNamespace(**heads))
    runner = SimpleNamespace(hooks=[hook], logger=logger, cfg=SimpleNamespace(load_from="a.pth"))
    for hook.classes in (None, ("cat", "dog")):
        assert log_of(lambda: check_classes(runner, model, ("cat", "dog"))) == ""
    hook.classes = ("dog", "cat")
    if sentence is None:
        text = log_of(lambda: check_classes(runner, model, ("cat", "dog")))
        assert "a.pth: was trained on other classes than the training set has" in text
    else:
        with pytest.raises(UserError, match=sentence):
            check_classes(runner, model, ("cat", "dog"))


@pytest.mark.parametrize("named", [True, False])
def test_features_of_fewer_classes_than_the_detector_tells_apart(
    make_config, minilvis, tmp_path, named
):
    heads = {"mask_head": None, "mask_roi_extractor": None, "bbox_head.reg_class_agnostic": True}
    cfg = make_config(**{f"model.roi_head.{key}": value for key, value in heads.items()})
    classes = build_dataset(minilvis).metainfo["classes"]
    cfg.load_from = str(tmp_path / "detector.pth")
    meta = dict(dataset_meta=dict(classes=classes)) if named else {}
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), cfg.load_from)
    cfg.num_classes = C  # that of the detector, as its checkpoint has it
    cfg.train_dataloader.dataset.metainfo = dict(classes=classes[:5])
    cfg.train_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = 6
    cache_features(cfg, tmp_path / "features")
    features = FeatureSplit(tmp_path / "features")
    labels = np.concatenate([features.rows(item)["labels_0"] for item in range(len(features))])
    assert features.description.classes == list(classes[:5])
    assert labels.max() == 5  # background
    assert np.median(labels) == 5


def test_a_checkpoint_that_does_not_fit_is_refused(make_config, tmp_path):
    cfg = make_config(**{"model.roi_head.bbox_head.reg_class_agnostic": True})
    with pytest.raises(UserError, match="does not fit the model of the config"):
        cache_features(cfg, tmp_path)


def test_pipelines(minilvis):
    cfg = read(minilvis)
    step = dict(type="PhotoMetricDistortion")
    train = cfg.train_dataloader.dataset
    train.pipeline.insert(3, step)
    train.pipeline[2].scale = (50, 50)
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=train)
    configs = split_configs(cfg, flips=True)
    names = [step["type"] for step in configs["train"].pipeline]
    assert names == ["LoadVerifiedImage", "LoadPolygonAnnotations", "Resize", "PackDetInputs"]
    assert configs["train"].pipeline[2].scale == (96, 96)
    plain, flipped = (DATASETS.build(configs[split]) for split in ("train", "train_flipped"))
    assert len(plain) == len(flipped) == TRAIN
    boxes = [dataset[3]["data_samples"].gt_instances.bboxes.tensor for dataset in (plain, flipped)]
    torch.testing.assert_close(boxes[1][:, [2, 0]], 96 - boxes[0][:, [0, 2]])
    cfg.val_dataloader.dataset = dict(type="ConcatDataset", datasets=[cfg.val_dataloader.dataset])
    with pytest.raises(UserError, match=r"val_dataloader.dataset: ConcatDataset joins several"):
        split_configs(cfg, flips=False)
    cfg.val_dataloader = None
    with pytest.raises(UserError, match="has no val_dataloader"):
        split_configs(cfg, flips=False)


def test_images_that_the_pipeline_drops_have_no_rois(make_config, tmp_path):
    cfg = make_config()
    cfg.train_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = 3
    drop = dict(type="FilterAnnotations", min_gt_bbox_wh=(1000, 1000), keep_empty=True)
    cfg.train_dataloader.dataset.pipeline.insert(2, drop)
    cache_features(cfg, tmp_path, flips=True)
    for split in ("train", "train_flipped"):
        features = FeatureSplit(tmp_path, split)
        assert features.counts[0].tolist() == [0, 0, 0]
        assert features.batch([0, 2])["features_0"].shape == (0, 32)
        assert features.image_ids.tolist() == [features.metainfo[i]["img_id"] for i in range(3)]
    assert FeatureSplit(tmp_path, "val").counts[0].min() > 0
