"""Hooks of image classification: training counts, epochs, the second stage."""

import numpy as np
from mmdet.registry import DATASETS, HOOKS
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class TrainingCountsHook(Hook):
    """Give the class counts of the training set to each metric that has ``set_class_counts``.

    They are in the model and in its checkpoints, where ``ClassFrequencyHook`` puts them before
    training. For a checkpoint without them, the training set of the config is counted.
    """

    def before_val(self, runner: Runner) -> None:
        """Set the counts before a validation; a UserError if they cannot be found."""
        self._set_counts(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Set the counts before a test; a UserError if they cannot be found."""
        self._set_counts(runner, runner.test_evaluator)

    def _set_counts(self, runner: Runner, evaluator) -> None:
        metrics = [metric for metric in evaluator.metrics if hasattr(metric, "set_class_counts")]
        if not metrics:
            return
        counts = bare_model(runner).head.training_counts.class_counts.cpu().numpy()
        if np.isnan(counts).any():
            if not runner.cfg.get("train_dataloader"):
                raise UserError(
                    "the checkpoint has no training counts of the classes; add train_dataloader to "
                    "the config, so that they can be counted."
                )
            dataset = DATASETS.build(runner.cfg.train_dataloader.dataset)
            counts = class_frequency_of(dataset).instance_count
        for metric in metrics:
            metric.set_class_counts(counts)


@HOOKS.register_module()
class EpochHook(Hook):
    """Call ``set_epoch`` of each module that has it with the epoch that begins, from 0 on."""

    def before_train(self, runner: Runner) -> None:
        """Raise a UserError if a loss waits for an epoch that never begins."""
        loop, modules = runner.train_loop, bare_model(runner).modules()
        first = max(getattr(module, "reweight_from", None) or 0 for module in modules)
        epochs = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else 0
        if first and first >= epochs:
            raise UserError(
                f"loss_cls.reweight_from is {first}, but train_cfg has {epochs or 'no'} epochs, so "
                "that the loss would never be re-weighted; train longer, lower it, or set it to "
                "None."
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch."""
        for module in bare_model(runner).modules():
            if hasattr(module, "set_epoch"):
                module.set_epoch(runner.epoch)


@HOOKS.register_module()
class SecondStageHook(Hook):
    """Start the second stage of two-stage training from a checkpoint of the first.

    ``reinitialize`` draws a new classifier (cRT, Kang et al., arXiv 1910.09217, section 4.2); False
    keeps that of the checkpoint (LWS).
    """

    priority = "HIGH"

    def __init__(self, reinitialize: bool = True) -> None:
        self.reinitialize = reinitialize

    def before_train(self, runner: Runner) -> None:
        """Draw a new classifier, unless resumed; a UserError without a checkpoint."""
        if runner.iter > 0:
            return
        if not runner.cfg.get("load_from"):
            raise UserError(
                "the second stage of two-stage training starts from a trained checkpoint; give it "
                "by --cfg-options load_from=PATH."
            )
        if self.reinitialize:
            classifier = bare_model(runner).head.classifier
            classifier.init_weights()
            # Ranks may draw different numbers, and DDP has compared their weights before.
            for values in classifier.state_dict().values():
                broadcast(values)
