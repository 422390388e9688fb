"""What cannot be built or found is named by its dotted key before a run is started."""

import copy

import pytest
from mmdet.registry import MODELS
from torch import nn

from mmdet_eql.engine.config_check import check_config
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.utils.errors import UserError
from tests.config_checks import read
from tests.conftest import CONFIGS

MOVED = dict(type="RandomFlip")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"model.roi_head.bbox_head.fc_out_channels": "many"},
            ["model.roi_head.bbox_head (type 'Shared2FCBBoxHead')", "TypeError"],
        ),
        (
            {"model.roi_head.bbox_head.loss_cls.lambada": 1},
            ["model.roi_head.bbox_head.loss_cls (type 'EqualizationLoss')", "lambada"],
        ),
        (
            {"model.roi_head.bbox_head.loss_cls.type": "NoLoss"},
            ["model.roi_head.bbox_head.loss_cls (type 'NoLoss')", "is not in the mmdet::model"],
        ),
        ({"model": None}, ["model is missing"]),
        ({"custom_hooks.1.every": 3}, ["custom_hooks.1 (type 'Resume", "arguments"]),
        ({"custom_hooks": ["FiniteLossHook"]}, ["custom_hooks.0 is 'FiniteLossHook'"]),
        ({"default_hooks.logger.every": 3}, ["default_hooks.logger (type 'LoggerHook')", "every"]),
        ({"train_dataloader": None}, ["train_dataloader is missing"]),
        (
            {"train_dataloader.dataset.pipeline.3.prob": "often"},
            ["train_dataloader.dataset.pipeline.3 (type 'RandomFlip')"],
        ),
        (
            {"train_dataloader.dataset.ann_file": "gone.json"},
            ["train_dataloader.dataset.ann_file: ", "gone.json does not exist"],
        ),
        (
            {"train_dataloader.dataset.filter_cfg": {"filter_empty": True}},
            ["'filter_cfg' has no 'filter_empty'; its keys are filter_empty_gt and min_size"],
        ),
        ({"train_dataloader.sampler.threshold": 1}, ["sampler (type 'InfiniteSampler')"]),
        ({"train_dataloader.sampler.type": "Some"}, ["sampler: Some is not in the"]),
        (
            {"val_dataloader.drop_last": True},
            ["val_dataloader.drop_last is True", "set it to False"],
        ),
        (
            {
                "val_dataloader.dataset.pipeline": [
                    dict(type="LoadImageFromFile"),
                    dict(type="RandomFlip", prob=0.5),
                ]
            },
            ["val_dataloader.dataset.pipeline.1: RandomFlip moves what is in an image", "--tta"],
        ),
        ({"val_evaluator.ann_file": "gone.json"}, ["val_evaluator.ann_file: gone.json does not"]),
        ({"val_evaluator.figures": 3}, ["val_evaluator (type 'LVISFastMetric')", "figures"]),
        (
            {"default_hooks.checkpoint.save_best": "bbox_AP"},
            ["save_best: val_evaluator has no metric 'bbox_AP'", "lvis/"],
        ),
        (
            {"default_hooks.checkpoint.save_best": "lvis/bbox_AP51"},
            ["save_best: val_evaluator has no metric 'lvis/bbox_AP51'", "lvis/bbox_AP75"],
        ),
        ({"default_hooks.checkpoint.by_epoch": True}, ["checkpoint: counts epochs", "by_epoch"]),
        (
            {"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "gone.pth"}},
            ["model.backbone.init_cfg.checkpoint: gone.pth does not exist"],
        ),
        ({"load_from": "gone.pth"}, ["load_from: gone.pth does not exist"]),
        ({"optim_wrapper.optimizer.rate": 1}, ["optim_wrapper.optimizer", "rate"]),
        ({"optim_wrapper.optimiser.lr": 1}, ["optim_wrapper ", "'optimiser'", "clip_grad"]),
        ({"param_scheduler.0.begin": "late"}, ["param_scheduler.0 (type 'LinearLR')"]),
        ({"param_scheduler.1.by_epoch": True}, ["param_scheduler.1: counts epochs"]),
        ({"train_cfg.max_iters": 2.5}, ["train_cfg (type 'IterBasedTrainLoop')", "integer"]),
        ({"train_cfg.max_items": 2}, ["train_cfg (type 'IterBasedTrainLoop')", "max_items"]),
    ],
)
def test_the_key_is_named(tiny_config, options, words):
    cfg = tiny_config("eql")
    check_config(cfg)
    before = cfg.pretty_text
    cfg.merge_from_dict(options)
    if options == {"model": None}:
        cfg.pop("model")
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence
    assert before != cfg.pretty_text


@MODELS.register_module()
class NeedsValues(nn.Module):
    """Reads a tensor when it is built, which the parameters of a model that is checked have not."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1).weight.item()


def test_what_is_accepted(tiny_config):
    cfg = tiny_config("eql")
    cfg.val_evaluator.classwise = True
    cfg.default_hooks.checkpoint.save_best = ["lvis/segm_APr", "lvis/bbox_zebra_precision"]
    cfg.model.neck = dict(type="NeedsValues")
    cfg.custom_hooks.append(dict(type="DetVisualizationHook", interval=5))
    check_config(cfg)


@pytest.mark.parametrize("sampler", ["RepeatFactorSampler", "InfiniteSampler"])
def test_an_endless_sampler_in_an_epoch_based_loop(tiny_config, sampler):
    cfg = tiny_config("eql")
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
    cfg.train_dataloader.sampler = dict(type=sampler, infinite=True)
    if sampler == "InfiniteSampler":
        del cfg.train_dataloader.sampler["infinite"]
    with pytest.raises(UserError, match=f"sampler: {sampler} never ends an epoch"):
        check_config(cfg)


def test_what_only_the_runner_builds(tiny_config):
    cfg = tiny_config("eql")
    cfg.launcher = "none"
    cfg.log_level = "LOUD"
    check_config(cfg)
    with pytest.raises(UserError, match=r"the runner cannot be built .*LOUD"):
        build_runner(cfg)


@pytest.mark.parametrize(
    "name",
    [
        "baselines/htc_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py",
        "efl/atss_r50_fpn_efl-rfs_ms-8xb2-2x_lvis-v1.py",
        "eql/dino-4scale_r50_eql_8xb2-12e_lvis-v1.py",
        "eql/mask-rcnn_r50_fpn_eql-rfs_16xb2-25e_lvis-v0.5.py",
        "openimages/faster-rcnn_r50_fpn_eql_32xb2-1x_openimages-challenge2019.py",
    ],
)
def test_published_configs_pass(name, minilvis, tmp_path):
    cfg = copy.deepcopy(read(CONFIGS / name))
    for split in ("train", "val"):
        # Of the files, which are not here, only the existence is looked at.
        cfg[f"{split}_dataloader"].dataset.data_root = str(tmp_path)
        path = tmp_path / cfg[f"{split}_dataloader"].dataset.ann_file
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(minilvis / "annotations" / f"minilvis_{split}.json")
        for key in ("ann_file", "train_ann_file"):
            if key in cfg.val_evaluator:
                cfg.val_evaluator[key] = str(path)
    check_config(cfg)
