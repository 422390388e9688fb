"""The configs of one-stage detectors and the DETR family: they build, are what their names say, and
train a step."""

import copy
import re

import pytest
import torch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.losses import connect_losses
from tests.config_checks import read
from tests.conftest import CONFIGS, TINY
from tests.heads.test_detectors import batch_of, build
from tests.losses import head_table
from tests.shrinking import move_to_tiny_set, unwrapped

NAME = re.compile(
    r"(?P<detector>atss|rtmdet|dino-4scale|deformable-detr)_(?P<backbone>r\d+|yolox-s|l)(_fpn)?"
    r"_(?P<loss>focal|efl|eql)(-(?P<sampler>rfs))?_(ms-)?"
    r"(?P<gpus>\d+)xb(?P<batch>\d+)(-2x|-(?P<epochs>\d+)e)?_(?P<data>minilvis|lvis-v1)"
)
EXPERIMENTS = sorted(
    path
    for kind in ("atss", "rtmdet", "dino", "deformable")
    for path in CONFIGS.rglob(f"{kind}*.py")
    if "_base_" not in path.parts
)
WIDTHS = {"l": (1, 1), "yolox-s": (0.33, 0.5)}  # deepen_factor, widen_factor
LOSSES = {"focal": "SigmoidFocalLoss", "efl": "EqualizedFocalLoss", "eql": "EqualizationLoss"}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_it_is_what_the_name_says(path):
    name, cfg = NAME.fullmatch(path.stem).groupdict(), read(path)
    with torch.device("meta"):
        model = MODELS.build(copy.deepcopy(cfg.model))
    connect_losses(model)
    head = model.bbox_head
    num_classes = {"minilvis": 200, "lvis-v1": 1203}[name["data"]]
    if name["backbone"] in WIDTHS:
        backbone = cfg.model.backbone
        assert (backbone.deepen_factor, backbone.widen_factor) == WIDTHS[name["backbone"]]
    else:
        assert f"r{model.backbone.depth}" == name["backbone"]
    assert head.num_classes == head.loss_cls.num_classes == head.cls_out_channels == num_classes
    assert type(head.loss_cls).__name__ == LOSSES[name["loss"]]
    if name["detector"] == "atss":
        assert head.num_base_priors == 2
    if name["epochs"]:
        assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == int(name["epochs"])
    batch_size = int(name["gpus"]) * int(name["batch"])
    assert cfg.auto_scale_lr.base_batch_size == batch_size
    assert cfg.train_dataloader.batch_size == int(name["batch"])
    repeats = cfg.train_dataloader.sampler.type == "RepeatFactorSampler"
    assert repeats == (name["sampler"] == "rfs")
    assert cfg.val_evaluator.metric == "bbox"
    assert cfg.train_cfg.val_interval in (cfg.train_cfg.get("max_epochs"), cfg.get("max_iters"))


@pytest.mark.parametrize("kind", ["dino", "deformable", "rtmdet", "atss_r50_fpn_eql", "atss_yolox"])
def test_a_step(kind, minilvis):
    (path,) = (path for path in EXPERIMENTS if path.name.startswith(kind))
    cfg = copy.deepcopy(read(path))
    head_table.shrink(cfg.model)
    cfg.model.bbox_head.num_classes = TINY.num_categories
    dataset = cfg.train_dataloader.dataset
    for step in [*dataset.pipeline, *unwrapped(dataset).pipeline]:
        if step.type in ("RandomChoice", "RandomChoiceResize"):  # of large images
            step.update(type="Resize", scale=(64, 64), keep_ratio=True)
            step.pop("transforms", step.pop("scales", None))
        for name in {"scale", "img_scale", "crop_size", "size"} & step.keys():
            step[name] = (64, 64)
        if "border" in step:
            step.border = (-32, -32)
    move_to_tiny_set(dataset, minilvis)
    model, dataset = build(cfg)
    total, _ = model.parse_losses(model.train()(**batch_of(model, dataset), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    layers = head_table.classifiers(model, (TINY.num_categories, 2 * TINY.num_categories))
    assert all(layer.weight.grad.any() for layer in layers[:2])
    assert layers


def test_an_average_of_weights_holds_the_statistics_of_the_loss(minilvis):
    """``EMAHook`` copies the model before they are known."""
    path = CONFIGS / "minilvis" / "atss_r18_fpn_efl_1xb4_minilvis.py"
    cfg = copy.deepcopy(read(path))
    cfg.model.bbox_head.loss_cls = dict(type="EqualizationLoss", use_sigmoid=True)
    model = MODELS.build(cfg.model)
    connect_losses(model)
    average = MODELS.build(
        dict(type="ExpMomentumEMA", update_buffers=True), default_args=dict(model=model)
    )
    loss = model.bbox_head.loss_cls
    loss.set_class_frequency(torch.linspace(0, 1, 200))
    average.update_parameters(model)
    theirs = average.module.bbox_head.loss_cls.state_dict()
    assert theirs
    for name, value in loss.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_is_resumed_with_its_sums_and_loaded_for_inference(minilvis, tmp_path):
    """The config says C once; the loss has it before its checkpoint is loaded."""

    def run(name: str, resume: str | None = None):
        DetLocalVisualizer._instance_dict.clear()
        cfg = read(CONFIGS / "minilvis" / "atss_r18_fpn_efl_1xb4_minilvis.py")
        cfg = Config(copy.deepcopy(cfg.to_dict()))
        cfg.model.bbox_head.num_classes = TINY.num_categories
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
        move_to_tiny_set(cfg.train_dataloader.dataset, minilvis)
        cfg.train_cfg.max_iters = 4
        for key in ("val_cfg", "val_dataloader", "val_evaluator"):
            cfg[key] = None
        cfg.default_hooks.checkpoint.interval = 2
        cfg.update(work_dir=str(tmp_path / name), launcher="none", randomness=dict(seed=0))
        set_resume(cfg, resume)
        runner = build_runner(cfg)
        runner.train()
        return cfg, runner.model

    cfg, whole = run("whole")
    _, resumed = run("resumed", str(tmp_path / "whole" / "iter_2.pth"))
    assert whole.bbox_head.loss_cls.neg_grad.all()
    for (name, one), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    loaded = init_detector(cfg, str(tmp_path / "whole" / "iter_4.pth"), device="cpu")
    assert loaded.bbox_head.loss_cls.num_classes == TINY.num_categories
    assert torch.equal(loaded.bbox_head.loss_cls.neg_grad, whole.bbox_head.loss_cls.neg_grad)


def test_a_step_on_minilvis(minilvis):
    cfg = copy.deepcopy(read(CONFIGS / "minilvis" / "atss_r18_fpn_efl_1xb4_minilvis.py"))
    cfg.model.bbox_head.num_classes = TINY.num_categories
    move_to_tiny_set(cfg.train_dataloader.dataset, minilvis)
    model, dataset = build(cfg)
    model.init_weights()
    total, _ = model.parse_losses(model.train()(**batch_of(model, dataset), mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert model.bbox_head.atss_cls.weight.grad.any()
    loss = model.bbox_head.loss_cls
    loss.add_deferred()
    assert loss.neg_grad.all()
    assert loss.pos_grad.any()
    # Every output starts at the prior.
    assert model.bbox_head.atss_cls.bias.sigmoid().max() < 0.002
