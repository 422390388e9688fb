"""From the config of a detector to that of its classifier's training, and what is refused."""

import copy
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.decoupled.classifier_model import FrozenDetectorHook
from mmdet_eql.decoupled.feature_cache import (
    ImageFeatures,
    SplitDescription,
    read_description,
    write_shard,
)
from mmdet_eql.decoupled.feature_dataset import annotation_checksum, image_ids_of
from mmdet_eql.decoupled.training_config import (
    check_options_on_features,
    effective_part,
    train_on_features,
)
from mmdet_eql.engine.launch import merge_options, read_config
from mmdet_eql.runs import planning
from mmdet_eql.runs.planning import features_digest, plan_runs, read_marker, write_run_files
from mmdet_eql.runs.sweep_file import entries_of
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset, log_of, minilvis_config, tiny_options
from tests.decoupled.recorded import begin_features

D, ROIS = 4, 3


@pytest.fixture(scope="module")
def detector_config(minilvis):
    cfg = read_config(str(minilvis_config("eql")))
    merge_options(cfg, tiny_options(minilvis))
    cfg.launcher = "none"
    return cfg


@pytest.fixture(scope="module")
def written(minilvis, detector_config, tmp_path_factory):
    """Features of the tiny MiniLVIS that are its image ids, and mirrored, these times -1."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "detector.pth").write_bytes(b"weights")
    dataset = build_dataset(minilvis)
    counts = dataset.class_frequency.instance_count.tolist()
    num_images = len(dataset)
    pipeline = detector_config.to_dict()["val_dataloader"]["dataset"]["pipeline"]
    train = SplitDescription("train.json", num_images, ROIS, [], num_images, counts)
    val = SplitDescription("val.json", 24, ROIS, pipeline)
    splits = {"train": train, "train_flipped": train, "val": val}
    begin_features(folder, detector_config, dataset, D, splits)
    for split, sign in (("train", 1), ("train_flipped", -1)):
        images = [
            ImageFeatures(
                dict(img_id=int(image)),
                [np.full((ROIS, D), sign * image)],
                [np.zeros((ROIS, 4))],
                [np.arange(ROIS)],
            )
            for image in dataset.image_ids
        ]
        write_shard(folder / "features", split, 0, images, "float32")
    return folder


@pytest.fixture
def lab(detector_config, written):
    """Make the training on these features: ``lab({"decoupled.epochs": 3})``."""

    def make(options=(), **parts):
        cfg = copy.deepcopy(detector_config)
        cfg.features = str(written / "features")
        cfg.update(parts)
        merge_options(cfg, dict(options))
        train_on_features(cfg)
        return cfg

    return make


def test_the_schedule_counts_images_whatever_the_sampler(lab, written, monkeypatch):
    # The number of RoIs is an option of the cache; image-level labels do not change the draw.
    sampler = {"type": "ImageLevelLabelSampler", "num": 3}
    cfg = lab({f"model.train_cfg.rcnn.sampler.{key}": value for key, value in sampler.items()})
    num_images = cfg.train_cfg.max_iters * 16 / 12
    assert num_images == 60
    assert cfg.train_cfg.val_interval == cfg.train_cfg.max_iters == 45
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.optim_wrapper.optimizer == dict(type="SGD", lr=0.1, momentum=0.0, weight_decay=0.0)
    assert cfg.param_scheduler == []
    assert cfg.load_from == str(written / "detector.pth")
    assert not {"features", "decoupled"} & cfg.keys()

    options = {
        "train_dataloader.sampler": dict(
            _delete_=True, type="RepeatFactorSampler", repeat_threshold=0.5
        ),
        "decoupled.epochs": 6,
        "decoupled.val_interval": 2,
        "decoupled.batch_size": 5,
        "decoupled.optimizer.lr": 0.3,
        "decoupled.lr_steps": [0.5, 0.75],
        "default_hooks.partial": dict(type="PartialLoadHook", leave_out=["neck"]),
    }
    monkeypatch.setenv("WORLD_SIZE", "3")
    cfg = lab({"launcher": "pytorch", **options})
    assert cfg.train_cfg == dict(type="IterBasedTrainLoop", max_iters=24, val_interval=8)
    assert cfg.train_dataloader.sampler.infinite
    assert cfg.param_scheduler[0].milestones == [12, 18]
    assert cfg.optim_wrapper.optimizer.lr == 0.3
    assert "partial" not in cfg.default_hooks


@pytest.mark.parametrize(("indices", "images"), [(16, 16), (-8, 8), (range(4), 4), (999, 60)])
def test_epochs_are_those_of_the_images_that_are_trained_on(lab, indices, images):
    cfg = lab({"train_dataloader.dataset.indices": indices, "decoupled.epochs": 4})
    assert cfg.train_cfg.max_iters == 4 * images / 16


def test_an_epoch_based_config_counts_iterations(lab):
    cfg = lab(
        {
            "default_hooks.checkpoint.by_epoch": True,
            "default_hooks.logger.log_metric_by_epoch": True,
            "train_dataloader.sampler": dict(_delete_=True, type="DefaultSampler"),
        },
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=12),
        log_processor=dict(type="LogProcessor", by_epoch=True),
    )
    assert cfg.train_dataloader.sampler == dict(type="InfiniteSampler", shuffle=True)
    assert cfg.train_cfg.type == "IterBasedTrainLoop"
    assert not cfg.default_hooks.checkpoint.by_epoch
    assert not cfg.log_processor.by_epoch


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"decoupled.lr": 1}, "decoupled has no 'lr'; its keys are epochs"),
        ({"decoupled.epochs": 0}, "decoupled.epochs is 0; give a number above 0"),
        ({"decoupled.batch_size": 2.5}, "decoupled.batch_size is 2.5; give a whole number"),
        ({"decoupled.lr_steps": 0.7}, "decoupled.lr_steps is 0.7; give a list"),
        ({"decoupled.optimizer": "SGD"}, "decoupled.optimizer is 'SGD'; give a dict"),
        ({"decoupled.keep_classifier": "no"}, "keep_classifier is 'no'; give True or False"),
        ({"decoupled.lr_steps": [12]}, r"decoupled.lr_steps is \[12\]; give shares"),
        ({"decoupled": 3}, "decoupled is 3; give a dict"),
        ({"resume": True}, "resume is True in the config"),
        (
            {"train_dataloader.sampler.type": "ClassAwareSampler"},
            "ClassAwareSampler ends after an epoch",
        ),
        ({"model.backbone.depth": 50}, "model.backbone.depth is 50, but 18 in the config that"),
        ({"model.test_cfg.rpn.max_per_img": 7}, "model.test_cfg.rpn.max_per_img is 7, but 100"),
        (
            {"val_dataloader.dataset.pipeline.1.scale": (9, 9)},
            "val_dataloader.dataset.pipeline.0.scale.0 is 9, but 96",
        ),
        ({"features": "gone"}, "gone/features.json: no such file; make the features by"),
        ({"features": ""}, "features is ''; give the folder of tools/cache_features.py"),
        ({"features": None, "decoupled.epochs": 2}, "features is not, so that the whole detector"),
        ({"model.type": "RetinaNet"}, "model.type is 'RetinaNet', but 'MaskRCNN' in the config"),
        ({"train_dataloader": None}, "train_dataloader is missing in the config"),
        (
            {"model.train_cfg.rcnn.assigner.pos_iou_thr": 0.7},
            "model.train_cfg.rcnn.assigner.pos_iou_thr is 0.7, but 0.5 in the config that",
        ),
        (
            {"model.train_cfg.rcnn.sampler.pos_fraction": 0.5},
            "model.train_cfg.rcnn.sampler.pos_fraction is 0.5, but 0.25",
        ),
    ],
)
def test_what_does_not_fit_is_named(options, sentence, lab):
    with pytest.raises(UserError, match=sentence):
        lab(options)


def test_an_option_of_none_is_not_one_that_is_missing():
    given, missing = (Config(dict(model=dict(loss_cls=one))) for one in (dict(lambda_=None), {}))
    assert effective_part(given) != effective_part(missing)


def test_options_that_the_schedule_replaces_are_refused():
    check_options_on_features(["decoupled.epochs", "features", "train_dataloader.sampler.type"])
    for option in ("optim_wrapper.optimizer.lr", "train_cfg.max_iters", "param_scheduler.0.end"):
        with pytest.raises(UserError, match=f"{option}: has no effect in a training on features"):
            check_options_on_features([option])


def test_a_config_without_features_stays(lab, detector_config):
    # A config may say that it has none, and that it has no schedule for them.
    cfg = lab({"features": None, "decoupled": None})
    assert cfg.to_dict() == detector_config.to_dict()


def test_the_config_of_a_training_on_features(lab):
    """What is left in a work_dir trains the same again, but takes no other features or schedule."""
    cfg = lab()
    again = copy.deepcopy(cfg)
    train_on_features(again)
    assert again.to_dict() == cfg.to_dict()
    for options in ({"features": "elsewhere"}, {"decoupled.epochs": 2}):
        merge_options(again := copy.deepcopy(cfg), options)
        with pytest.raises(UserError, match="left in its work_dir, where 'features' and"):
            train_on_features(again)


def test_the_checkpoint_is_that_of_the_features(lab, written, tmp_path):
    moved = (written / "detector.pth").rename(tmp_path / "moved.pth")
    try:
        with pytest.raises(UserError, match="is not there; say where it is by"):
            lab()
        assert log_of(lambda: lab({"load_from": str(moved)})) == ""
        assert lab({"load_from": str(moved)}).load_from == str(moved)
        (written / "detector.pth").write_bytes(b"other weights")
        with pytest.raises(UserError, match="is not the checkpoint that made the features"):
            lab()
    finally:
        moved.rename(written / "detector.pth")
    (tmp_path / "other.pth").write_bytes(b"other weights")
    said = log_of(lambda: lab({"load_from": str(tmp_path / "other.pth")}))
    assert "other.pth is not used, since the features in" in said


def test_the_dataset_gives_the_features_of_its_images(lab):
    init_default_scope("mmdet")
    config = lab().train_dataloader.dataset
    config.dataset.indices = [7, 3, 5]
    dataset = DATASETS.build(config)
    ids = dataset.dataset.image_ids[[2, 0, 2]]
    batch = dataset.__getitems__([2, 0, 2])
    assert batch["features"][0][:, 0].abs().tolist() == np.repeat(ids, ROIS).tolist()
    assert batch["labels"][0].tolist() == [0, 1, 2] * 3
    assert "verified" not in batch
    np.random.seed(0)
    signs = [dataset[0]["features"][0].sign().mean().item() for _ in range(64)]
    assert 16 < signs.count(-1.0) < 48
    assert signs.count(1.0) == 64 - signs.count(-1.0)


def test_features_of_another_dataset_are_refused(lab):
    init_default_scope("mmdet")
    config = lab().train_dataloader.dataset
    other = copy.deepcopy(config)
    other.dataset.ann_file = "annotations/minilvis_val.json"
    with pytest.raises(UserError, match="other numbers of instances than"):
        DATASETS.build(other)
    dataset = DATASETS.build(config)
    dataset.features[0].description.splits["train"].annotations = 1
    with pytest.raises(UserError, match="which has other boxes than"):
        dataset._check_annotations()
    known = annotation_checksum(dataset.dataset)
    dataset.features[0].description.splits["train"].annotations = known
    dataset._check_annotations()
    with pytest.raises(UserError, match="ConcatDataset: features are found by image id"):
        image_ids_of(DATASETS.build(dict(type="ConcatDataset", datasets=[config.dataset] * 2)))
    part = dataset.features[0]
    part.image_ids = part.image_ids + 1
    with pytest.raises(UserError, match="has no features of 1 of the 54 images of train_data"):
        dataset._find_images(part)


@pytest.mark.parametrize("method", ["SeesawLoss", "BalancedGroupSoftmaxLoss"])
def test_any_loss_and_an_image_without_rois(method, lab):
    init_default_scope("mmdet")
    key = "model.roi_head.bbox_head"
    options = {f"{key}.loss_cls": dict(_delete_=True, type=method, num_classes=12)}
    cfg = lab({**options, f"{key}.cls_predictor_cfg.type": "NormedLinear"})
    model = MODELS.build(cfg.model)
    model.init_weights()
    if method == "BalancedGroupSoftmaxLoss":
        model.heads[0].loss_cls.set_class_counts(torch.arange(12) * 50)
    features, labels = torch.randn(5, 32).half(), torch.tensor([0, 3, 12, 12, 11])
    model.train()
    total, _ = model.parse_losses(model(features=[features], labels=[labels]))
    total.backward()
    gradients = {name for name, p in model.named_parameters() if p.grad is not None}
    assert gradients == {f"roi_head.bbox_head.fc_cls.{part}" for part in ("weight", "bias")}
    empty = model(features=[features[:0]], labels=[labels[:0]])
    assert sum(empty.values()) == 0
    whole = dict(img_shape=(96, 96), ori_shape=(48, 48), scale_factor=(2.0, 2.0), img_id=1)
    rois = torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(5, 1)
    batch = dict(features=[features], rois=rois, counts=[5, 0], metainfo=[whole, dict(img_id=2)])
    first, second = model(**batch, mode="predict")
    assert len(first.pred_instances) > 0
    assert first.pred_instances.bboxes.max() < 25
    assert len(second.pred_instances) == 0


def test_a_head_with_methods_of_its_own_is_refused(lab):
    init_default_scope("mmdet")
    cfg = lab()
    cfg.model.detector.roi_head.type = "TridentRoIHead"
    cfg.model.detector.roi_head.update(num_branch=3, test_branch_idx=1)
    with pytest.raises(UserError, match=r"TridentRoIHead has a predict\(\) of its own"):
        MODELS.build(cfg.model)


def test_a_detector_without_weights_is_not_trained():
    with pytest.raises(UserError, match="load_from is not set: the frozen detector has no weights"):
        FrozenDetectorHook().before_train(None)


def test_a_sweep_finds_invalid_entries_before_it_runs(minilvis, written, tmp_path):
    options = tiny_options(minilvis)
    options = {key: value for key, value in options.items() if key != "randomness.seed"}
    options["features"] = str(written / "features")
    config = str(minilvis_config("eql"))
    runs = [
        {"config": config, "name": "same"},
        {"config": config, "name": "misspelt", "options": {"decoupled.epoch": 3}},
        {"config": config, "name": "nowhere", "options": {"features": str(tmp_path / "none")}},
        {"config": config, "name": "other", "options": {"model.test_cfg.rpn.max_per_img": 7}},
        {"config": config, "name": "none", "options": {"features": None, "decoupled.epochs": 3}},
        {"config": config, "name": "rate", "options": {"optim_wrapper.optimizer.lr": 0.5}},
        {"config": config, "name": "rois", "options": {"model.train_cfg.rcnn.sampler.num": 7}},
        {"config": config, "name": "second", "load_from": "same"},
        {
            "config": config,
            "name": "boxes",
            "options": {"model.roi_head.bbox_head.loss_bbox.loss_weight": 2.0},
        },
    ]
    plan = plan_runs(entries_of({"options": options, "runs": runs}, "sweep.yaml"), tmp_path)
    assert [run.label for run in plan.runs] == ["same"]
    # The config itself is left as it was written.
    assert plan.runs[0].cfg.model.type == "MaskRCNN"
    reasons = {entry.name: entry.reason for entry in plan.invalid}
    assert "decoupled has no 'epoch'" in reasons["misspelt"]
    assert "none" in reasons["nowhere"]
    assert "so that the whole detector would be trained" in reasons["none"]
    assert "model.test_cfg.rpn.max_per_img is 7" in reasons["other"]
    assert "load_from has no effect on features" in reasons["second"]
    for name in ("rate", "rois", "boxes"):
        assert "trains the same classifier as same" in reasons[name]


def test_a_sweep_does_not_go_on_with_other_features(minilvis, written, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "check_config", lambda cfg: None)
    options = {**tiny_options(minilvis), "features": str(tmp_path / "features")}
    shutil.copytree(written / "features", tmp_path / "features")
    entries = entries_of({"config": str(minilvis_config("eql")), "options": options}, "sweep.yaml")
    (run,) = plan_runs(entries, tmp_path / "sweep").runs
    write_run_files(run)
    assert read_marker(run.work_dir)["features"] == features_digest(run.cfg)
    path = tmp_path / "features" / "features.json"
    description = read_description(tmp_path / "features")
    path.write_text(json.dumps(asdict(replace(description, dtype="float16"))))
    (invalid,) = plan_runs(entries, tmp_path / "sweep").invalid
    assert "holds other features than those that" in invalid.reason
