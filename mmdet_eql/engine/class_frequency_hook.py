"""Handing the training set's class frequencies and counts to whoever needs them."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import DATASETS, HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmdet_eql.frequency import GROUP_COLOURS, class_frequency_of, frequency_group
from mmdet_eql.losses import GradientSums, connect_losses
from mmdet_eql.utils.errors import UserError

#: The modules that must know the dataset's categories; cascades number their stages, the heads of
#: Mask2Former are panoptic by name, and a classifier of images has one head.
_CATEGORY_HEAD = re.compile(
    r"(^|\.)(bbox_head|mask_head|panoptic_head|panoptic_fusion_head)(\.\d+)?$|^head$"
)


def bare_model(runner: Runner) -> nn.Module:
    """Return the model that the config describes, without the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@HOOKS.register_module()
class ClassFrequencyHook(Hook):
    """Give f_j of the training dataset to each module that has ``set_class_frequency``, and the
    numbers of instances to each that has ``set_class_counts``.

    This is done before the first iteration, after the number of classes of every head is compared
    with the dataset's. A resumed run keeps the frequencies of its checkpoint, with a warning if
    those of the dataset differ. Checkpoints get the counts and a palette by frequency group into
    their ``dataset_meta``, where MMDetection's ``DetInferencer`` looks for it.

    Before any checkpoint is loaded, each loss gets to know its head
    (:func:`~mmdet_eql.losses.connect_losses`). Losses that sum up gradients add them after each
    iteration, over all ranks.
    """

    priority = "HIGH"

    def before_run(self, runner: Runner) -> None:
        """Tell each loss its head's number of categories; a UserError if it does not work there."""
        connect_losses(bare_model(runner))

    def before_train(self, runner: Runner) -> None:
        """Compare the model with the training dataset, then hand over the frequencies.

        A UserError if a head has another number of classes than the training annotations, or the
        training dataset does not count its categories.
        """
        model = bare_model(runner)
        _check_num_classes(model, runner.train_dataloader.dataset)
        self._sums = [module for module in model.modules() if isinstance(module, GradientSums)]
        for module in self._sums:
            module.defer()
        wanted = [
            (name, module, kind)
            for name, module in model.named_modules()
            for kind in ("class_frequency", "class_counts")
            if hasattr(module, f"set_{kind}")
        ]
        if not wanted:
            return
        class_frequency = class_frequency_of(runner.train_dataloader.dataset)
        values = {
            "class_frequency": torch.from_numpy(class_frequency.frequency),
            "class_counts": torch.from_numpy(class_frequency.instance_count).double(),
        }
        for name, module, kind in wanted:
            known, value = getattr(module, kind).cpu(), values[kind]
            if runner.iter == 0 or torch.isnan(known).any():
                getattr(module, f"set_{kind}")(value)
            elif not torch.allclose(known, value.to(known), rtol=1e-6, atol=0):
                runner.logger.warning(
                    f"{name}: {kind} of the resumed checkpoint differs from that of "
                    f"{class_frequency.num_images} training images; the checkpoint's is kept."
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add the gradients of this iteration to the sums of the losses."""
        for module in self._sums:
            module.add_deferred()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Tell whoever draws predictions how often the categories occur."""
        meta = checkpoint["meta"].get("dataset_meta")
        if meta and meta.get("classes"):
            counts = class_frequency_of(runner.train_dataloader.dataset).image_count
            meta["image_count"] = counts.tolist()
            if not meta.get("palette"):
                meta["palette"] = _palette(counts)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take that back: mmengine compares the rest with the dataset's when it resumes."""
        meta = checkpoint.get("meta", {}).get("dataset_meta") or {}
        counts = meta.pop("image_count", None)
        if counts is not None and meta.get("palette") == _palette(counts):
            del meta["palette"]

    def before_test(self, runner: Runner) -> None:
        """Count the training set for a loss whose scores need frequencies it was not trained with.

        Logit adjustment, for one, is applied to checkpoints of plain softmax classifiers. A
        UserError if the config has no training dataset.
        """
        modules = [
            module
            for module in bare_model(runner).modules()
            if getattr(module, "scores_need_class_frequency", False)
            and torch.isnan(module.class_frequency).any()
        ]
        if not modules:
            return
        if not runner.cfg.get("train_dataloader"):
            raise UserError(
                f"{type(modules[0]).__name__} scores by class frequencies, which the checkpoint "
                "does not hold; add train_dataloader to the config, so that they can be counted."
            )
        dataset = DATASETS.build(runner.cfg.train_dataloader.dataset)
        for module in modules:
            module.set_class_frequency(torch.from_numpy(class_frequency_of(dataset).frequency))


def _palette(image_count: Sequence[int]) -> list[tuple[int, int, int]]:
    """The RGB colour of each category's frequency group."""
    return [
        tuple(bytes.fromhex(GROUP_COLOURS[group][1:])) for group in frequency_group(image_count)
    ]


def _check_num_classes(model: nn.Module, dataset) -> None:
    classes = dataset.metainfo.get("classes")
    if classes is None:
        return
    for name, module in model.named_modules():
        # RPN heads tell objects from background and semantic heads count background regions.
        if not _CATEGORY_HEAD.search(name) or getattr(module, "class_agnostic", False):
            continue
        num_classes = getattr(module, "num_classes", len(classes))
        if num_classes != len(classes):
            raise UserError(
                f"model.{name}.num_classes is {num_classes}, but the training annotations have "
                f"{len(classes)} categories; set num_classes of the model's heads to "
                f"{len(classes)}."
            )
