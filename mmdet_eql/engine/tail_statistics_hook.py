"""How much of the tail's discouragement a loss takes away, beside the losses in the log."""

from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_eql.engine.class_frequency_hook import bare_model
from mmdet_eql.losses import (
    EqualizationLoss,
    EqualizationLossV2,
    SoftmaxEqualizationLoss,
    split_target,
)
from mmdet_eql.utils.errors import UserError

_LOSSES = (EqualizationLoss, EqualizationLossV2, SoftmaxEqualizationLoss)


@HOOKS.register_module()
class TailStatisticsHook(Hook):
    """Log the size of the tail and the share of negatives that the loss ignores.

    Every ``interval`` iterations (at least 1), for one batch of each loss with a tail:

    - ``train/tail_size``: sum over the categories of T(f_j), for a threshold the number of
      categories in the tail.
    - ``train/ignored_negatives``: of all pairs of a proposal and a category that is not its own,
      the share whose gradient is left out; those ignored in part or with a probability (gamma of
      softmax EQL) count accordingly.

    In a cascade they are the means over the stages. With EQL v2, T(f_j) is 1 - r_j, the part of the
    negative gradients of category j that is taken away, which follows the training.

    Example, in a config::

        default_hooks = dict(tail_statistics=dict(type="TailStatisticsHook"))
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise UserError(f"TailStatisticsHook: interval is {interval}; it must be at least 1.")
        self.interval = interval
        self._looks = False
        self._seen: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Put a hook on each loss with a tail; a UserError if there is none."""
        losses = [module for module in bare_model(runner).modules() if isinstance(module, _LOSSES)]
        if not losses:
            raise UserError(
                "TailStatisticsHook: no loss of the model has a tail (EQL, softmax EQL and EQL v2 "
                "have); remove the hook from the config."
            )
        self._handles = [
            loss.register_forward_pre_hook(self._look, with_kwargs=True) for loss in losses
        ]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """See whether this iteration is looked at."""
        self._looks = self.every_n_train_iters(runner, self.interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Hand the statistics to the log."""
        if not self._seen:
            return
        sizes, shares = map(torch.stack, zip(*self._seen, strict=True))
        self._seen = []
        for name, values in (("tail_size", sizes), ("ignored_negatives", shares)):
            runner.message_hub.update_scalar(f"train/{name}", values.mean().item(), resumed=False)

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _look(self, loss: nn.Module, inputs: tuple, options: dict) -> None:
        if self._looks:
            labels, _ = split_target(inputs[1], loss.num_classes)
            self._seen.append(ignored_negatives(loss, labels, options.get("verified")))


@torch.no_grad()
def ignored_negatives(
    loss: nn.Module, labels: Tensor, verified: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the size of the tail and the share of negatives ignored in a batch, both scalars.

    Args:
        loss (nn.Module): EQL, softmax EQL or EQL v2.
        labels (Tensor): int64 of shape (N,), in [0, C]; C means background.
        verified (Tensor, optional): Image-level labels, boolean of shape (N, C).
    """
    if isinstance(loss, EqualizationLossV2):
        tail = 1 - loss.class_weights()[1][: loss.num_classes]
    else:
        tail = loss.tail_weights()
    num_classes = len(tail)
    is_foreground = labels < num_classes
    negative = torch.ones(len(labels), num_classes, dtype=torch.bool, device=labels.device)
    negative.scatter_(1, labels.clamp(max=num_classes - 1)[:, None], ~is_foreground[:, None])
    ignored = negative * tail
    if isinstance(loss, SoftmaxEqualizationLoss):
        ignored = ignored * loss.gamma
    if getattr(loss, "exclude_background", False):
        ignored = ignored * is_foreground[:, None]
    if verified is not None and getattr(loss, "image_level_labels", False):
        ignored = ignored.masked_fill(verified, 0)
    return tail.sum(), ignored.sum() / negative.sum().clamp(min=1)
