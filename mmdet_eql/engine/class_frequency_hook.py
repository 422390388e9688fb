"""Handing the training set's class frequencies and counts to whoever needs them."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import DATASETS, HOOKS
from mmengine.runner import Runner

from mmdet_eql.engine.class_list_hook import ClassListHook, bare_model
from mmdet_eql.frequency import GROUP_COLOURS, class_frequency_of, frequency_group
from mmdet_eql.losses import RunningStatistics, connect_losses
from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class ClassFrequencyHook(ClassListHook):
    """Give f_j of the training dataset to each module that has ``set_class_frequency``, and the
    numbers of instances to each that has ``set_class_counts``.

    This is done before the first iteration. A resumed run keeps the frequencies of its checkpoint,
    with a warning if those of the dataset differ. Checkpoints get the counts and a palette by
    frequency group into their ``dataset_meta``, where MMDetection's ``DetInferencer`` looks for it.
    The classes themselves are followed as in :class:`ClassListHook`.

    Before any checkpoint is loaded, each loss gets to know its head
    (:func:`~mmdet_eql.losses.connect_losses`). Running statistics of a loss, such as sums of
    gradients, are added after each iteration, over all ranks.
    """

    #: Counts that a loaded checkpoint was trained with, None if it has none.
    _image_count: list[int] | None = None

    def before_run(self, runner: Runner) -> None:
        """Tell each loss its head's number of categories; a UserError if it does not work there."""
        super().before_run(runner)
        connect_losses(bare_model(runner))

    def before_train(self, runner: Runner) -> None:
        """Hand over the frequencies; a UserError if the training dataset does not count them."""
        super().before_train(runner)
        model = bare_model(runner)
        self._sums = [module for module in model.modules() if isinstance(module, RunningStatistics)]
        for module in self._sums:
            module.defer()
        if runner.iter == 0:
            _warn_of_statistics(runner)
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
        _warn_of_tails(wanted, runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add this iteration to the running statistics of the losses."""
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
        """Check the classes, and take the counts back: when mmengine resumes, it compares the rest
        of ``dataset_meta`` with the dataset's.
        """
        super().after_load_checkpoint(runner, checkpoint)
        dataset_meta = checkpoint.get("meta", {}).get("dataset_meta") or {}
        self._image_count = dataset_meta.get("image_count")
        remove_counts(dataset_meta)

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
        class_frequency = class_frequency_of(
            DATASETS.build(runner.cfg.train_dataloader.dataset)
        ).select(runner.test_dataloader.dataset.metainfo["classes"])
        if self._image_count not in (None, class_frequency.image_count.tolist()):
            runner.logger.warning(
                f"{runner.cfg.load_from}: was trained on other image counts than those of "
                f"train_dataloader.dataset, by which {type(modules[0]).__name__} scores; give the "
                "training set of the checkpoint."
            )
        for module in modules:
            module.set_class_frequency(torch.from_numpy(class_frequency.frequency))


def _warn_of_tails(wanted: list[tuple], runner: Runner) -> None:
    """Warn if a loss with a tail has none, or nothing else."""
    for name, module in {name: module for name, module, _ in wanted}.items():
        without = getattr(module, "lambda_", None) == 0
        if without or not hasattr(module, "tail_weights"):
            continue
        in_tail = module.tail_weights() > 0
        if in_tail.all() or not in_tail.any():
            runner.logger.warning(
                f"{name}: {'every' if in_tail.any() else 'no'} category of the training set is in "
                f"the tail of {type(module).__name__}; choose its lambda_ for this set "
                "(tools/analysis/class_frequency.py --tail-ratio)."
            )


def _warn_of_statistics(runner: Runner) -> None:
    """Warn if a training begins with what a loss has seen in that of ``load_from``."""
    for name, module in bare_model(runner).named_modules():
        if isinstance(module, RunningStatistics) and module.num_seen > 0:
            runner.logger.warning(
                f"{name}: goes on from the statistics of {module.num_seen:,} samples that "
                f"{runner.cfg.load_from} holds; to begin without them, leave the loss out by "
                f"PartialLoadHook(leave_out=[{name!r}])."
            )


def remove_counts(dataset_meta: dict) -> None:
    """Take out of a ``dataset_meta`` what a checkpoint has besides that of the dataset."""
    counts = dataset_meta.pop("image_count", None)
    if counts is not None and dataset_meta.get("palette") == _palette(counts):
        del dataset_meta["palette"]


def _palette(image_count: Sequence[int]) -> list[tuple[int, int, int]]:
    """The RGB colour of each category's frequency group."""
    return [
        tuple(bytes.fromhex(GROUP_COLOURS[group][1:])) for group in frequency_group(image_count)
    ]
