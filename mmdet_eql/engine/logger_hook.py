"""The log of a test of several processes, written by one of them."""

from mmdet.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner


# In the scope of mmdet this is what a config means by "LoggerHook".
@HOOKS.register_module(name="LoggerHook")
class OneProcessLoggerHook(LoggerHook):
    """mmengine's ``LoggerHook``, of which all processes write the metrics of a test to one file at
    once, so that it may hold parts of each."""

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the metrics of a test, and write them to a JSON file in the log folder."""
        super().after_test_epoch(runner, metrics)
