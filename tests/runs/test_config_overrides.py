"""MiniLVIS configs brought to another set and another length."""

import pytest
import torch
from mmdet.registry import PARAM_SCHEDULERS
from mmengine.config import Config

from mmdet_eql.runs.config_overrides import set_max_iters, use_dataset
from mmdet_eql.utils.errors import UserError


def rates(cfg: Config) -> list[float]:
    """Learning rate at each iteration."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler), default_args={"optimizer": optimizer})
        for scheduler in cfg.param_scheduler
    ]
    found = []
    for _ in range(cfg.train_cfg.max_iters):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_the_whole_set_is_exchanged(tiny_config):
    cfg = tiny_config()
    use_dataset(cfg, "/elsewhere/set", 33)
    assert cfg.train_dataloader.dataset.data_root == "/elsewhere/set/"
    assert cfg.val_dataloader.dataset.data_root == "/elsewhere/set/"
    assert cfg.test_dataloader.dataset.data_root == "/elsewhere/set/"
    expected = "/elsewhere/set/annotations/minilvis_val.json"
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == expected
    assert cfg.model.roi_head.bbox_head.num_classes == 33
    assert cfg.model.roi_head.mask_head.num_classes == 33


@pytest.mark.parametrize("max_iters", [1, 2, 7, 24, 240, 4800])
def test_the_schedule_keeps_its_shape(tiny_config, max_iters):
    cfg = tiny_config()
    cfg.train_cfg.max_iters = 2400
    whole = rates(cfg)
    set_max_iters(cfg, max_iters)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == max_iters
    assert 1 <= cfg.default_hooks.checkpoint.interval <= max(max_iters / 4, 1)
    assert 1 <= cfg.default_hooks.logger.interval <= max(max_iters / 10, 1)
    scaled = rates(cfg)
    assert len(scaled) == max_iters
    if max_iters >= 240:
        for share in (0.3, 0.5, 0.7, 0.8, 0.85, 0.95):
            at = scaled[int(share * max_iters)]
            assert at == pytest.approx(whole[int(share * len(whole))])
        assert scaled[0] == pytest.approx(whole[0])


def test_a_schedule_of_epochs_is_refused():
    cfg = Config({"train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 12}})
    with pytest.raises(UserError, match="trains for epochs"):
        set_max_iters(cfg, 10)
