"""What happens around the loops of a classifier."""

from mmdet.registry import DATASETS, HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_eql.engine.bare_model import bare_model
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class TrainingCountsHook(Hook):
    """Give the metrics the class counts of the training set.

    They are in the model, where ``ClassFrequencyHook`` has put them before training, and in its
    checkpoint. For a checkpoint from elsewhere the training set of the config is counted.
    """

    def before_val(self, runner: Runner) -> None:
        """Hand over before a validation."""
        self._hand_over(runner, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Hand over before a test."""
        self._hand_over(runner, runner.test_evaluator)

    def _hand_over(self, runner: Runner, evaluator) -> None:
        metrics = [metric for metric in evaluator.metrics if hasattr(metric, "set_class_counts")]
        if not metrics:
            return
        counts = bare_model(runner).head.training_counts.class_counts.cpu().numpy()
        if counts.size == 0 or counts[0] != counts[0]:
            if not runner.cfg.get("train_dataloader"):
                raise UserError(
                    "the checkpoint does not say how many training images each class has; add "
                    "train_dataloader to the config, so that they can be counted."
                )
            dataset = DATASETS.build(runner.cfg.train_dataloader.dataset)
            counts = class_frequency_of(dataset).instance_count
        for metric in metrics:
            metric.set_class_counts(counts)


@HOOKS.register_module()
class EpochHook(Hook):
    """Tell each module that has ``set_epoch`` which epoch begins, counted from 0.

    A resumed run tells them the epoch that it goes on with.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the epoch."""
        for module in bare_model(runner).modules():
            if hasattr(module, "set_epoch"):
                module.set_epoch(runner.epoch)


@HOOKS.register_module()
class SecondStageHook(Hook):
    """Begin the second stage of two-stage training from a checkpoint of the first.

    Args:
        reinitialize (bool): Whether the classifier starts anew (cRT, Kang et al., arXiv 1910.09217,
            section 4.2). Without, it starts as the checkpoint has it (LWS).
    """

    priority = "HIGH"

    def __init__(self, reinitialize: bool = True) -> None:
        self.reinitialize = reinitialize

    def before_train(self, runner: Runner) -> None:
        """Draw a new classifier, unless the second stage itself is resumed.

        Raises:
            UserError: If there is no checkpoint to start from.
        """
        if runner.iter > 0:
            return
        if not runner._load_from:
            raise UserError(
                "the second stage of two-stage training starts from a trained checkpoint; give it "
                "by --cfg-options load_from=PATH."
            )
        if self.reinitialize:
            bare_model(runner).head.classifier.init_weights()
