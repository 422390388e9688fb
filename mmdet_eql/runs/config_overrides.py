"""A MiniLVIS config brought to another set of its kind, and to another number of iterations."""

import os

from mmengine.config import Config

from mmdet_eql.utils.errors import UserError


def use_dataset(cfg: Config, data_root: str | os.PathLike, num_classes: int) -> None:
    """Train and evaluate on another set with the same layout of files.

    Args:
        cfg (Config): The config to change: its datasets and evaluators find their annotation files
            below one ``data_root``.
        data_root (str | os.PathLike): Folder of the set.
        num_classes (int): Number of its categories.
    """
    for name in ("train", "val", "test"):
        cfg[f"{name}_dataloader"].dataset.data_root = f"{data_root}/"
    for name in ("val", "test"):
        ann_file = cfg[f"{name}_dataloader"].dataset.ann_file
        cfg[f"{name}_evaluator"].ann_file = f"{data_root}/{ann_file}"
    if "num_classes" in cfg:
        cfg.num_classes = num_classes
    for head in ("bbox_head", "mask_head"):
        cfg.model.roi_head[head].num_classes = num_classes


def set_max_iters(cfg: Config, max_iters: int) -> None:
    """Shorten or lengthen an iteration-based schedule: warm-up and steps keep their share of it.

    Evaluation comes after the last iteration. Checkpoints and log lines become no rarer than a
    fourth and a tenth of the run.

    Args:
        cfg (Config): The config to change.
        max_iters (int): Number of iterations.

    Raises:
        UserError: If the config's schedule is not counted in iterations.
    """
    if cfg.train_cfg.get("type") != "IterBasedTrainLoop":
        raise UserError(
            f"{cfg.filename}: trains for epochs, so that its number of iterations cannot be set; "
            "give a config with an IterBasedTrainLoop."
        )
    share = max_iters / cfg.train_cfg.max_iters
    if "max_iters" in cfg:
        cfg.max_iters = max_iters
    cfg.train_cfg.max_iters = max_iters
    cfg.train_cfg.val_interval = max_iters
    for scheduler in cfg.param_scheduler:
        scheduler.begin = round(scheduler.get("begin", 0) * share)
        if "end" in scheduler:
            # A linear ramp over fewer than two iterations would never reach its end.
            scheduler.end = max(round(scheduler.end * share), scheduler.begin + 2)
        if "milestones" in scheduler:
            scheduler.milestones = [round(step * share) for step in scheduler.milestones]
    hooks = cfg.default_hooks
    hooks.checkpoint.interval = min(hooks.checkpoint.interval, max(max_iters // 4, 1))
    hooks.logger.interval = min(hooks.logger.interval, max(max_iters // 10, 1))
