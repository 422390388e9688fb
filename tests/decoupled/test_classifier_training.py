"""The classifier that learns from cached features is that of an MMDetection training."""

import copy

import pytest
import torch
from mmengine.hooks import Hook

from mmdet_eql.decoupled.training_config import train_on_features
from mmdet_eql.engine.launch import build_runner
from tests.decoupled.recorded import BATCH, LR, VAL_IMAGES, train_and_record
from tests.heads.test_detectors import make_config


def lab_config(cfg, folder, **schedule):
    """The config of one pass over the recorded features, in their order."""
    cfg = copy.deepcopy(cfg)
    cfg.features = str(folder / "features")
    schedule = dict(epochs=1, batch_size=BATCH, keep_classifier=True, **schedule)
    cfg.decoupled = dict(optimizer=dict(lr=LR), **schedule)
    cfg.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=False)
    cfg.launcher = "none"
    cfg.work_dir = str(folder / "work_dir")
    cfg.experiment_name = folder.name
    return cfg


class Metrics(Hook):
    """Keeps the metrics of the last validation."""

    def after_val_epoch(self, runner, metrics=None):
        Metrics.last = metrics


@pytest.mark.parametrize(
    ("detector", "method"), [("mask-rcnn", "eqlv2"), ("cascade", "eql-image-labels")]
)
def test_weights_and_detections_are_those_of_the_detector(detector, method, minilvis, tmp_path):
    cfg = make_config(detector, method, minilvis)
    cfg.model.test_cfg.rcnn.max_per_img = 10
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.fixed_ap = 20
    expected = train_and_record(cfg, tmp_path)
    before = torch.load(tmp_path / "detector.pth")["state_dict"]

    lab = lab_config(cfg, tmp_path)
    # As in a test, what counts for Fixed AP is kept beside the best of each image.
    lab.custom_hooks = [
        *(lab.get("custom_hooks") or []),
        dict(type="FixedAPTestHook", validation=True),
    ]
    train_on_features(lab)
    runner = build_runner(lab, "train", "val")
    runner.register_hook(Metrics())
    runner.train()
    trained, wanted = runner.model.state_dict(), expected.state_dict()
    assert trained.keys() == wanted.keys()
    for name, value in wanted.items():
        if ".fc_cls." in name:
            assert (value - before[name]).abs().max() > 1e-3, name
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)
        else:
            torch.testing.assert_close(trained[name], value, msg=name)

    test = copy.deepcopy(cfg)
    test.launcher, test.work_dir = "none", str(tmp_path / "test")
    test.load_from = str(tmp_path / "work_dir" / "iter_3.pth")
    for evaluator in (lab.val_evaluator, test.test_evaluator):
        evaluator.metric = "bbox"
    test.test_dataloader.dataset.indices = VAL_IMAGES
    tester = build_runner(test, "test")
    assert tester.test() == pytest.approx(Metrics.last, abs=1e-4)
    for batch, images in zip(runner.val_dataloader, tester.test_dataloader, strict=True):
        with torch.no_grad():
            pairs = zip(runner.model.val_step(batch), tester.model.test_step(images), strict=True)
        for sample, wanted in pairs:
            assert (sample.img_id, sample.ori_shape) == (wanted.img_id, wanted.ori_shape)
            found, wanted = sample.pred_instances, wanted.pred_instances
            assert len(found) == len(wanted) > 5
            assert torch.equal(found.labels, wanted.labels)
            torch.testing.assert_close(found.bboxes, wanted.bboxes, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-6)
