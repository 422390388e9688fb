"""Options that nothing would read are refused, and the key that is meant is named."""

import copy
import re

import pytest

from mmdet_eql.engine.config_keys import check_test_options
from mmdet_eql.engine.launch import merge_options
from mmdet_eql.utils.errors import UserError
from tests.config_checks import read
from tests.conftest import CONFIGS

CONFIG = CONFIGS / "eql" / "mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        # As MMDetection 2 had it.
        ("optimizer.lr", "nothing reads 'optimizer'; set it where it is used: optim_wrapper.optim"),
        (
            "data.samples_per_gpu",
            "nothing reads 'data'; see the keys with `python",
        ),
        ("lambda_", "set it where it is used: model.roi_head.bbox_head.loss_cls.lambda_"),
        ("optim_wraper.optimizer.lr", "nothing reads 'optim_wraper'; set 'optim_wrapper' instead"),
        # Variables of the config, which it has copied.
        ("data_root", "set it where it is used: train_dataloader.dataset.data_root, val_dataload"),
        ("train_pipeline.0.type", "nothing reads 'train_pipeline'; see the keys with"),
        ("model.test_cfg.rcnn.max_per_image", "model.test_cfg.rcnn has no 'max_per_image', but 'm"),
        ("model.test_cfg.rcn.score_thr", "model.test_cfg has no 'rcn', but 'rcnn'; correct the"),
        ("model.train_cfg.rcnn.sampler.nums", "rcnn.sampler has no 'nums', but 'num'; correct"),
        ("default_hooks.checkpoint.intervals", "checkpoint has no 'intervals', but 'interval'"),
        ("train_dataloader.batchsize", "train_dataloader has no 'batchsize', but 'batch_size'"),
    ],
)
def test_an_option_without_effect(option, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        merge_options(copy.deepcopy(read(CONFIG)), {option: 1})
    assert str(caught.value).startswith(f"{option}: ")


@pytest.mark.parametrize(
    "option",
    [
        *("num_classes", "features", "sync_bn", "randomness.seed", "custom_hooks"),
        *("model.test_cfg.rpn.min_bbox_size", "default_hooks.partial_load.type"),
        *("default_hooks.checkpoint.save_last", "model.rpn_head.num_classes"),
        *("param_scheduler.0.verbose", "model.roi_head.bbox_head.loss_cls.gamma"),
        *("optim_wrapper.paramwise_cfg.norm_decay_mult", "train_dataloader.sampler._delete_"),
    ],
)
def test_new_keys_are_taken(option):
    cfg = copy.deepcopy(read(CONFIG))
    merge_options(cfg, {option: True})
    assert cfg.to_dict() != read(CONFIG).to_dict()


def test_options_of_validation_have_no_effect_in_a_test():
    check_test_options({"val_evaluator.classwise": True, "test_evaluator.classwise": True})
    with pytest.raises(UserError, match=r"has no effect in a test; set test_evaluator\.classwise"):
        check_test_options(["val_evaluator.classwise"])


def test_another_runner_may_read_other_keys():
    cfg = copy.deepcopy(read(CONFIG))
    cfg.runner_type = "OwnRunner"
    merge_options(cfg, {"own.key": 3})
    assert cfg.own.key == 3
