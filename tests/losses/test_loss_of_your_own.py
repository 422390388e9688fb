"""The examples of docs/losses.md in a training step of Mask R-CNN."""

import re
import sys
from pathlib import Path

import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.heads.test_detectors import C, batch_of, build, make_config
from tests.shrinking import shrink

DOCUMENT = Path(__file__).parents[2] / "docs" / "losses.md"


def test_the_example_trains_a_mask_rcnn(minilvis, tmp_path, monkeypatch):
    section = DOCUMENT.read_text().partition("## A loss of your own")[2]
    loss, config = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(loss.splitlines()) <= 30
    (tmp_path / "my_losses.py").write_text(loss)
    make_config("mask-rcnn", "sigmoid", minilvis).dump(tmp_path / "base.py")
    config = re.sub(r'_base_ = ".*"', '_base_ = "base.py"', config)
    (tmp_path / "config.py").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        model, dataset = build(Config.fromfile(tmp_path / "config.py"))
    finally:
        sys.modules.pop("my_losses", None)

    loss_cls = model.roi_head.bbox_head.loss_cls
    assert type(loss_cls).__name__ == "InverseFrequencyLoss"
    frequency = torch.from_numpy(dataset.class_frequency.frequency)
    assert torch.equal(loss_cls.class_frequency, frequency)
    assert any(name.endswith("loss_cls.class_frequency") for name in model.state_dict())
    total, logged = model.parse_losses(model(**batch_of(model, dataset), mode="loss"))
    assert torch.isfinite(total)
    assert logged["loss_cls"] > 0
    total.backward()
    assert model.roi_head.bbox_head.fc_cls.weight.grad.abs().sum() > 0
    scores = loss_cls.get_activation(torch.zeros(1, C))
    assert scores.tolist() == [[0.5] * C + [0.0]]


def test_a_config_of_mmdetection_trains_with_eql(minilvis, tmp_path):
    """Frequencies are those of the data set in MMDetection's wrapper."""
    section = DOCUMENT.read_text().partition("## In a config of MMDetection")[2]
    (tmp_path / "config.py").write_text(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1])
    init_default_scope("mmdet")
    cfg = Config.fromfile(tmp_path / "config.py")
    assert cfg.model.test_cfg.rcnn.max_per_img == 300
    resize = dict(type="Resize", scale=(96, 96), keep_ratio=True)
    cfg.train_dataloader.dataset.dataset.pipeline[2] = resize
    cfg = shrink(cfg, minilvis)
    model, dataset = build(cfg)

    assert type(dataset).__name__ == "ClassBalancedDataset"
    loss_cls = model.roi_head.bbox_head.loss_cls
    assert type(loss_cls).__name__ == "EqualizationLoss"
    frequency = torch.from_numpy(dataset.dataset.class_frequency.frequency)
    assert torch.equal(loss_cls.class_frequency, frequency)
    total, _ = model.parse_losses(model(**batch_of(model, dataset), mode="loss"))
    assert torch.isfinite(total)
    tested = DATASETS.build(cfg.test_dataloader.dataset)
    assert tested[0]["data_samples"].metainfo["img_id"] > 0
    METRICS.build(cfg.test_evaluator).check_dataset(tested)
