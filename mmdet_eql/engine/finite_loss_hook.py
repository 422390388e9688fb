"""A run whose loss is not finite stops before the step, and names the images."""

import math
from contextlib import suppress
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop when a loss is NaN or infinite, naming the iteration, the images and a parameter.

    The losses are checked between the backward pass and the step of the optimizer, or where loss
    scaling leaves out the step, after the iteration; a loss that is not finite is a UserError.
    """

    # Before the checkpoint hook.
    priority = "ABOVE_NORMAL"

    def before_train(self, runner: Runner) -> None:
        """Watch what the model returns and each step of the optimizer."""
        self._runner = runner
        self._losses: dict[str, torch.Tensor] = {}
        self._batch: Any = None
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        self._handles = [
            bare_model(runner).register_forward_hook(self._after_forward),
            *(w.optimizer.register_step_pre_hook(lambda *_: self._check()) for w in wrappers),
        ]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember the images."""
        self._batch = data_batch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check losses that no step was taken for."""
        self._check()
        self._batch = None

    def after_train(self, runner: Runner) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _after_forward(self, model: nn.Module, inputs: Any, losses: Any) -> None:
        if model.training and isinstance(losses, dict):
            self._losses |= {
                name: sum(part.detach().float().sum() for part in _tensors(value))
                for name, value in losses.items()
                if "loss" in name and _tensors(value)
            }

    def _check(self) -> None:
        # One copy from the device. mmengine waits for it in each iteration, too, to log the losses.
        losses, self._losses = self._losses, {}
        values = torch.stack([*losses.values()]).tolist() if losses else []
        pairs = zip(losses, values, strict=True)
        bad = {name: value for name, value in pairs if not math.isfinite(value)}
        if bad:
            named = ", ".join(f"{name} is {value}" for name, value in bad.items())
            raise UserError(
                f"iteration {self._runner.iter + 1}: {named} on {_images(self._batch)}"
                f"{self._parameter(bad)}; the step is not taken, and the last checkpoint in "
                f"{self._runner.work_dir} is from before: look at these images, or lower the "
                "learning rate and give --resume."
            )

    def _parameter(self, bad: dict[str, float]) -> str:
        """The first parameter that is not finite; else the last whose gradient is not."""
        model = bare_model(self._runner)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in parameters.items():
            if not torch.isfinite(parameter).all():
                return f" (the parameter {name} is not finite)"
        gradients = [parameter.grad for parameter in parameters.values()]
        # Clipping has spread the gradients that are not finite over all others. Several ranks
        # cannot compute them anew, since one that is alone with its loss would wait for the rest.
        if get_world_size() == 1:
            with suppress(Exception):
                batch = model.data_preprocessor(self._batch, True)
                losses = model(**batch, mode="loss")
                total = sum(part.sum() for name in bad for part in _tensors(losses[name]))
                gradients = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
        for name, gradient in reversed([*zip(parameters, gradients, strict=True)]):
            if gradient is not None and not torch.isfinite(gradient).all():
                return f" (the gradient of the parameter {name} is not finite)"
        return ""


def _tensors(value: Any) -> list[torch.Tensor]:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def _images(batch: Any) -> str:
    samples = batch.get("data_samples", []) if isinstance(batch, dict) else []
    paths = [str(getattr(sample, "img_path", sample.metainfo.get("img_id"))) for sample in samples]
    return ", ".join(paths) or "a batch without paths"
