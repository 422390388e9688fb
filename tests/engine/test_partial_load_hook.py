"""Which weights a run begins with that takes another model's in part."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_eql.utils.errors import UserError
from tests.conftest import minilvis_config, tiny_options

CLASSIFIER = "roi_head.bbox_head.fc_cls"


@pytest.fixture(scope="module")
def trained(minilvis, tmp_path_factory):
    """Weights of a run of one iteration, and their file."""
    cfg = Config.fromfile(minilvis_config("eql"))
    cfg.merge_from_dict(tiny_options(minilvis, max_iters=1))
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir = str(tmp_path_factory.mktemp("trained"))
    Runner.from_cfg(cfg).train()
    path = Path(cfg.work_dir, "iter_1.pth")
    return torch.load(path, weights_only=False)["state_dict"], path


def config_of(tiny_config, path, leave_out=(CLASSIFIER, "roi_head.bbox_head.fc_reg.bias")):
    cfg = tiny_config(max_iters=2)
    cfg.load_from = str(path)
    cfg.default_hooks.partial_load = dict(type="PartialLoadHook", leave_out=leave_out)
    # Not a weight may change, and the bias of a new classifier is the prior's.
    cfg.optim_wrapper.optimizer.lr = 0.0
    return cfg


def test_what_is_left_out_starts_anew(tiny_config, trained):
    before, path = trained
    runner = Runner.from_cfg(config_of(tiny_config, path))
    runner.train()
    after = runner.model.state_dict()
    parameters = dict(runner.model.named_parameters())
    new = {key for key in parameters if not torch.equal(before[key], after[key])}
    assert f"{CLASSIFIER}.weight" in new
    assert new <= {f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias", "roi_head.bbox_head.fc_reg.bias"}
    assert after[f"{CLASSIFIER}.bias"].unique().numel() == 1
    assert before[f"{CLASSIFIER}.bias"].unique().numel() > 1


def test_testing_and_resuming_load_everything(tiny_config, trained):
    before, path = trained
    cfg = config_of(tiny_config, path)
    key = f"{CLASSIFIER}.weight"
    runner = Runner.from_cfg(cfg)
    runner.test()
    assert torch.equal(runner.model.state_dict()[key], before[key])
    cfg.resume = True
    cfg.train_cfg.max_iters = 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    assert torch.equal(runner.model.state_dict()[key], before[key])


def test_a_part_that_is_not_there_is_named(tiny_config, trained):
    with pytest.raises(UserError, match=r"iter_1.pth has no part 'roi_head.bbox_head.fc_cl'"):
        Runner.from_cfg(config_of(tiny_config, trained[1], ["roi_head.bbox_head.fc_cl"])).train()
    with pytest.raises(UserError, match="give a list of dotted names"):
        Runner.from_cfg(config_of(tiny_config, trained[1], CLASSIFIER))
