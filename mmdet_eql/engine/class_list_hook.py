"""One list of classes, from the training set or the checkpoint to the last metric."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmdet_eql.engine.checkpoint_fit import (
    check_resumed_classes,
    check_weights,
    classes_of_checkpoint,
    has_fitting_weights,
    warn_of_classifier,
    warn_of_other_model,
    weights_of,
)
from mmdet_eql.engine.stock_metrics import prepare_stock_metric
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import check_writable

#: The modules that must know the dataset's categories; cascades number their stages, the heads of
#: Mask2Former are panoptic by name, and a classifier of images has one head.
_CATEGORY_HEAD = re.compile(
    r"(^|\.)(bbox_head|mask_head|panoptic_head|panoptic_fusion_head)(\.\d+)?$|^head$"
)


def bare_model(runner: Runner) -> nn.Module:
    """Return the model that the config describes, without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def is_training(runner: Runner) -> bool:
    """Return whether a runner trains: only a training has built its optimizer."""
    return isinstance(runner.optim_wrapper, OptimWrapper)


@HOOKS.register_module()
class ClassListHook(Hook):
    """Have validation and testing follow the classes that the model was trained with, by name.

    In a training these are the classes of the training set; in a test, those of the checkpoint.
    Before the first image, the heads' numbers of classes are compared with them, the data set and
    the evaluator take them over (``follow_classes``, ``dataset_meta``), and each metric that has
    ``check_dataset(dataset)`` opens what it will need. A checkpoint that does not fit the model is
    refused before a test, and before a training if none of its weights fit.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.classes: tuple[str, ...] | None = None
        self._started_from: dict | None = None

    def before_run(self, runner: Runner) -> None:
        """Prepare a training's validation; a UserError if it does not fit the training set."""
        if not is_training(runner):
            return
        dataset = runner.train_dataloader.dataset
        classes = getattr(dataset, "metainfo", {}).get("classes")
        if classes is None:
            return
        self.classes = tuple(classes)
        source = getattr(dataset, "ann_file", None) or "the training set"
        check_num_classes(bare_model(runner), self.classes, source)
        if runner.val_loop is not None:
            self._prepare(runner, "val")

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare a checkpoint with the model and the classes, before its weights are loaded."""
        path = runner.cfg.get("load_from") or "the checkpoint"
        model, named = _tested_model(runner), classes_of_checkpoint(checkpoint)
        if not is_training(runner):
            check_weights(model, checkpoint, path)
            warn_of_other_model(runner.cfg.get("model"), checkpoint, path, runner.logger)
            self.classes = named
            if named is None:
                runner.logger.warning(
                    f"{path}: names no classes (meta['dataset_meta']); its labels are taken as the "
                    "classes of the data set that it is tested on, in their order."
                )
            else:
                check_num_classes(model, named, path)
            return
        if not has_fitting_weights(model, checkpoint):
            raise UserError(
                f"{path}: none of its {len(weights_of(checkpoint)):,} weights fits a part of the "
                "model by name and shape; give a checkpoint of this kind of detector, or weights "
                "of a backbone in model.backbone.init_cfg."
            )
        if self.classes is not None and runner.cfg.get("resume"):
            check_resumed_classes(checkpoint, self.classes, path, runner.logger)
        elif self.classes is not None:
            self._started_from = checkpoint

    def before_train(self, runner: Runner) -> None:
        """Warn of a classifier of other classes, after other hooks have left out what they do."""
        if self._started_from is not None:
            path = runner.cfg.get("load_from") or "the checkpoint"
            warn_of_classifier(
                bare_model(runner), self._started_from, self.classes, path, runner.logger
            )
            self._started_from = None

    def before_test(self, runner: Runner) -> None:
        """Prepare a test; a UserError if the data set does not fit the checkpoint."""
        self._prepare(runner, "test")

    def before_val(self, runner: Runner) -> None:
        """Prepare a validation that is not part of a training."""
        if not is_training(runner):
            self._prepare(runner, "val")

    def _prepare(self, runner: Runner, split: str) -> None:
        loop = getattr(runner, f"{split}_loop")
        dataset, evaluator = loop.dataloader.dataset, getattr(loop, "evaluator", None)
        metainfo = getattr(dataset, "metainfo", {})
        classes = self.classes or metainfo.get("classes")
        if classes is not None:
            if self.classes is None:
                _check_assumed_classes(_tested_model(runner), classes, split)
            follow_classes(dataset, classes, f"{split}_dataloader.dataset")
            metainfo = dict(metainfo, classes=tuple(classes))
            runner.visualizer.dataset_meta = metainfo
            if evaluator is not None:
                evaluator.dataset_meta = metainfo
        for metric in getattr(evaluator, "metrics", ()):
            if hasattr(metric, "check_dataset"):
                metric.check_dataset(dataset)
            prepare_stock_metric(metric, classes, split)
            for name, ending in (("outfile_prefix", ".bbox.json"), ("out_file_path", "")):
                path = getattr(metric, name, None)
                if path and is_main_process():
                    check_writable(f"{path}{ending}", f"choose another {name!r}")


def follow_classes(dataset: Any, classes: Sequence[str], key: str) -> None:
    """Have a data set take over the classes of the model, through wrappers.

    Raises:
        UserError: If it cannot, and has other classes; ``key`` is its place in the config.
    """
    if hasattr(dataset, "follow_classes"):
        dataset.follow_classes(classes)
    elif hasattr(dataset, "datasets"):
        for index, part in enumerate(dataset.datasets):
            follow_classes(part, classes, f"{key}.datasets.{index}")
    elif hasattr(dataset, "dataset"):
        follow_classes(dataset.dataset, classes, f"{key}.dataset")
    else:
        own = getattr(dataset, "metainfo", {}).get("classes", classes)
        if tuple(own) != tuple(classes):
            raise UserError(
                f"{key}: {type(dataset).__name__} has other classes ({_first(own)}), or the same "
                f"in another order, than those that the model is trained with ({_first(classes)}); "
                "set its metainfo.classes to the latter, or use type='LVISFormatDataset', which "
                "finds them by name."
            )


def check_num_classes(model: nn.Module, classes: Sequence[str], source: str) -> None:
    """Raise a UserError if a head has another number of classes than ``source`` names."""
    for name, num_classes in _other_numbers(model, classes):
        raise UserError(
            f"model.{name}.num_classes is {num_classes}, but {source} has {len(classes)} "
            f"categories; set num_classes = {len(classes)} in the config."
        )


def _check_assumed_classes(model: nn.Module, classes: Sequence[str], split: str) -> None:
    for _, num_classes in _other_numbers(model, classes):
        raise UserError(
            f"the checkpoint names no classes, and the model has {num_classes}, but the data "
            f"set that it is tested on {len(classes)}; name the classes that it was trained "
            f"with, in their order, by {split}_dataloader.dataset.metainfo.classes."
        )


def _other_numbers(model: nn.Module, classes: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Name and number of classes of each head that tells other categories apart than these."""
    for name, module in model.named_modules():
        # RPN heads tell objects from background and semantic heads count background regions.
        tells_apart = _CATEGORY_HEAD.search(name) and not getattr(module, "class_agnostic", False)
        if tells_apart and getattr(module, "num_classes", len(classes)) != len(classes):
            yield name, module.num_classes


def _first(classes: Sequence[str]) -> str:
    return f"{len(classes)}: {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"


def _tested_model(runner: Runner) -> nn.Module:
    """The model whose weights a checkpoint holds."""
    model = bare_model(runner)
    return model.module if isinstance(model, BaseTTAModel) else model
