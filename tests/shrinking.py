"""A detector's config at a size that trains a step within a second on a CPU."""

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmdet_eql.heads.roi_head import stages_of as stages
from tests.conftest import TINY

_WIDTHS = ("in_channels", "out_channels", "feat_channels", "conv_out_channels", "fc_out_channels")


def shrink(cfg: Config, folder: Path) -> Config:
    """Shrink a config: backbone, widths, proposals, images, dataset and iterations.

    Args:
        cfg (Config): The config of any detector, which stays as it is.
        folder (Path): The tiny MiniLVIS, in the format of the config's dataset.

    Returns:
        Config: The same kind of model, loss, sampler and pipeline on the tiny set.
    """
    cfg = copy.deepcopy(cfg)
    shrink_model(cfg.model)
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        move_to_tiny_set(loader.dataset, folder)
        for step in unwrapped(loader.dataset).pipeline:
            if "scale" in step:
                step.scale = [(96, 96), (64, 64)] if isinstance(step.scale, list) else (96, 96)
            for name in {"size", "crop_size"} & step.keys():
                step[name] = (96, 96)
    for split in ("val", "test"):
        files = {"ann_file": f"{split}_dataloader", "train_ann_file": "train_dataloader"}
        for key in files.keys() & cfg[f"{split}_evaluator"].keys():
            dataset = cfg[files[key]].dataset
            cfg[f"{split}_evaluator"][key] = f"{dataset.data_root}/{dataset.ann_file}"
    cfg.train_cfg = ConfigDict(type="IterBasedTrainLoop", max_iters=4, val_interval=4)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.default_hooks.logger.update(interval=1, log_metric_by_epoch=False)
    cfg.log_processor.by_epoch = False
    cfg.randomness = ConfigDict(seed=0)
    return cfg


def unwrapped(dataset: ConfigDict) -> ConfigDict:
    """The dataset within a wrapper that mixes images."""
    return dataset.get("dataset", dataset)


def move_to_tiny_set(dataset: ConfigDict, folder: Path) -> None:
    """Replace the files of a dataset, wrapped or not, by those of the tiny set of its format."""
    dataset = unwrapped(dataset)
    dataset.data_root = str(folder)
    if dataset.data_prefix.get("seg"):
        dataset.data_prefix.seg = "semantic/"
    # Other formats have files of one name whatever their size.
    if "lvis" in dataset.ann_file or "v3det" in dataset.ann_file:
        split = "val" if dataset.get("test_mode") else "train"
        dataset.ann_file = f"annotations/minilvis_{split}.json"


def shrink_model(model: ConfigDict) -> None:
    """Make a model narrow and shallow, with random weights and the categories of the tiny set."""
    # An empty list, since None means MMDetection's, which takes the offsets of deformable
    # convolutions for weights.
    model.backbone.update(frozen_stages=-1, norm_eval=False, init_cfg=[])
    _narrow(model)
    if model.backbone.type == "ResNeXt":
        model.backbone.update(depth=50, groups=2, base_width=4, base_channels=8)
    else:
        model.backbone.depth = 18
    if "neck" in model:
        model.neck.in_channels = [32, 64, 128, 256]
        if model.backbone.type == "ResNet":
            model.backbone.base_channels = 8
            model.neck.in_channels = [8, 16, 32, 64]
    else:  # C4: a quarter of a ResNet-50's channels are those of a ResNet-18.
        model.roi_head.shared_head.update(depth=18, init_cfg=None)
    for head in stages(model.roi_head.bbox_head):
        head.num_classes = TINY.num_categories
        if "num_classes" in head.loss_cls:
            head.loss_cls.num_classes = TINY.num_categories
        if head.loss_cls.get("lambda_"):
            head.loss_cls.lambda_ = 0.1  # the tiny set has no category below the config's
    for head in stages(model.roi_head.get("mask_head") or []):
        head.num_classes = TINY.num_categories
    model.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=100)
    for stage in stages(model.train_cfg.rcnn):
        stage.sampler.num = 32 if "neck" in model else 16
    model.test_cfg.rpn.update(nms_pre=200, max_per_img=50)
    model.test_cfg.rcnn.update(score_thr=1e-3, max_per_img=30)


def _narrow(part: ConfigDict | list) -> None:
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key in _WIDTHS and isinstance(value, int) and value >= 256:
            part[key] = value // 4
        elif isinstance(value, (dict, list)):
            _narrow(value)
