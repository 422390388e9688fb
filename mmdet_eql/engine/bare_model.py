"""The model of a run, without what distributed training puts around it."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def bare_model(runner: Runner) -> nn.Module:
    """The model that the config describes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
