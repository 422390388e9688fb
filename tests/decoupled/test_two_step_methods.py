"""The methods of decoupled training in the classifier's training, by the options of the docs."""

import argparse
import re
import shlex

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmdet_eql.decoupled.feature_cache import ImageFeatures, SplitDescription, write_shard
from mmdet_eql.decoupled.training_config import train_on_features
from mmdet_eql.engine.launch import build_runner, merge_options
from mmdet_eql.utils.errors import UserError
from tests.conftest import REPOSITORY, TINY, minilvis_config, tiny_options
from tests.decoupled.recorded import begin_features

C, D = TINY.num_categories, 32
METHODS = ("cRT", "LWS", "nearest class mean", "BAGS")


def documented(method: str) -> dict:
    """The options that docs/decoupled.md gives for a method."""
    text = (REPOSITORY / "docs" / "decoupled.md").read_text()
    (options,) = re.findall(rf"^\| {method} .*\| `(.*)` \|$", text, re.MULTILINE)
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *shlex.split(options)]).cfg_options


@pytest.fixture(scope="module")
def cached(minilvis, tmp_path_factory):
    """A detector's checkpoint, features of its training set, and their rows and labels."""
    folder = tmp_path_factory.mktemp("cached")
    cfg = Config.fromfile(minilvis_config("softmax"))
    cfg.merge_from_dict(tiny_options(minilvis, method="softmax"))
    init_default_scope("mmdet")
    cfg.model.backbone.init_cfg = None
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "detector.pth")
    rng, ids = np.random.default_rng(0), [dataset.get_data_info(i)["img_id"] for i in range(9)]
    cfg.train_dataloader.dataset.indices = len(ids)
    images = [
        ImageFeatures(
            {"img_id": image},
            [rng.random((20, D), dtype=np.float32)],
            [np.zeros((20, 4), np.float32)],
            [rng.integers(0, C + 1, 20)],
        )
        for image in ids
    ]
    counts = dataset.class_frequency.instance_count.tolist()
    split = SplitDescription("train.json", len(ids), 64, [], instance_count=counts)
    begin_features(folder, cfg, dataset, D, {"train": split})
    write_shard(folder / "features", "train", 0, images, "float32")
    rows, labels = (
        np.concatenate([getattr(image, name)[0] for image in images])
        for name in ("features", "labels")
    )
    return cfg, folder, rows, labels


def train(cached, tmp_path, options, resumed=None) -> tuple[dict, dict]:
    """The classifier of the checkpoint and the trained one."""
    cfg, folder, *_ = cached
    cfg = Config(cfg.to_dict())
    cfg.features, cfg.decoupled = str(folder / "features"), {}
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    merge_options(cfg, options)
    cfg.launcher, cfg.work_dir, cfg.experiment_name = "none", str(tmp_path), tmp_path.name
    train_on_features(cfg)
    if resumed is not None:
        cfg.resume, cfg.load_from = True, str(resumed)
    runner = build_runner(cfg, "train")
    runner.train()
    before = torch.load(folder / "detector.pth")["state_dict"]
    after = runner.model.state_dict()
    prefix = "roi_head.bbox_head.fc_cls."
    for name, value in before.items():
        assert name.startswith(prefix) or torch.equal(value, after[name]), name
    return tuple(
        {name.removeprefix(prefix): of[name] for name in of if name.startswith(prefix)}
        for of in (before, after)
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained(method, cached, tmp_path):
    before, after = train(cached, tmp_path, documented(method))
    if method == "cRT":
        assert after["weight"].abs().max() < 0.5 * before["weight"].abs().max(), "begun anew"
        assert after["bias"].abs().max() > 0
    elif method == "LWS":
        assert torch.equal(before["weight"], after["weight"])
        assert torch.equal(before["bias"], after["bias"])
        assert (after["class_scale"] - 1).abs().max() > 1e-4
    elif method == "nearest class mean":
        _, _, rows, labels = cached
        for label in range(C + 1):
            mean = rows[labels == label].mean(axis=0)
            np.testing.assert_allclose(after["weight"][label], mean, rtol=1e-5)
        assert not after["bias"].any()
    else:
        assert after["weight"].shape == (C + 4 + 2, D)
        assert after["bias"].abs().max() > 0


def test_a_scaled_classifier_needs_that_of_the_checkpoint(cached, tmp_path):
    options = documented("LWS")
    del options["decoupled.keep_classifier"]
    with pytest.raises(UserError, match=r"fc_cls\.weight: is not trained by this classifier"):
        train(cached, tmp_path, options)


def test_class_means_need_cosines(cached, tmp_path):
    with pytest.raises(UserError, match="the scores are cosines"):
        train(cached, tmp_path, {"decoupled.class_means": True})
    with pytest.raises(UserError, match="trains nothing; leave out the other keys"):
        train(cached, tmp_path, {"decoupled": dict(class_means=True, epochs=3)})


def test_what_is_resumed_was_trained_on_these_features(cached, tmp_path):
    """A folder may hold checkpoints of the detector."""
    train(cached, tmp_path, {})
    (path,) = tmp_path.glob("*.pth")
    train(cached, tmp_path, {"decoupled.epochs": 13}, resumed=path)
    for other in ("that of other features", None):
        checkpoint = torch.load(path, weights_only=False)
        checkpoint["message_hub"]["runtime_info"]["detector_of_features"] = other
        torch.save(checkpoint, path)
        with pytest.raises(UserError, match="was not trained on features of this detector"):
            train(cached, tmp_path, {}, resumed=path)
