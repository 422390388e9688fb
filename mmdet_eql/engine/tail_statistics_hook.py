"""How much of the tail's discouragement a loss takes away, beside the losses in the log."""

from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_eql.engine.class_list_hook import bare_model
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
    - ``train/ignored_negatives``: of all pairs of a sample (proposal, anchor, query) and a category
      that is not its own, the share whose gradient is left out; those ignored in part or with a
      probability (gamma of softmax EQL) count accordingly. Most anchors are background, and E(r)
      keeps their gradients: in a dense head the share is small.

    In a cascade they are the means over the stages; the levels of a dense head and the layers of a
    query head count together. Nothing of shape (N, C) is made. With EQL v2, T(f_j) is 1 - r_j, the
    part of the negative gradients of category j that is taken away, which follows the training.

    Example, in a config::

        default_hooks = dict(tail_statistics=dict(type="TailStatisticsHook"))
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise UserError(f"TailStatisticsHook: interval is {interval}; it must be at least 1.")
        self.interval = interval
        self._looks = False
        self._seen: dict[nn.Module, list[Tensor]] = {}

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
        counts = torch.stack([torch.stack(calls).sum(dim=0) for calls in self._seen.values()])
        calls = torch.tensor([len(calls) for calls in self._seen.values()], device=counts.device)
        sizes, shares = counts[:, 0] / calls, counts[:, 1] / counts[:, 2].clamp(min=1)
        self._seen = {}
        for name, values in (("tail_size", sizes), ("ignored_negatives", shares)):
            runner.message_hub.update_scalar(f"train/{name}", values.mean().item(), resumed=False)

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _look(self, loss: nn.Module, inputs: tuple, options: dict) -> None:
        if self._looks:
            labels, _ = split_target(inputs[1], loss.num_classes)
            known = (options.get(name) for name in ("verified", "image"))
            counts = count_ignored(loss, labels, *known)
            self._seen.setdefault(loss, []).append(counts)


@torch.no_grad()
def count_ignored(
    loss: nn.Module, labels: Tensor, verified: Tensor | None = None, image: Tensor | None = None
) -> Tensor:
    """Return the size of the tail, the number of ignored negatives and that of negatives in a
    batch, float64 of shape (3,).

    Args:
        loss (nn.Module): EQL, softmax EQL or EQL v2.
        labels (Tensor): int64 of shape (N,), in [0, C]; C means background.
        verified, image (Tensor, optional): Image-level labels, boolean of shape (B, C), and the row
            of each sample therein, shape (N,).
    """
    if isinstance(loss, EqualizationLossV2):
        tail = 1 - loss.class_weights()[1][: loss.num_classes]
    else:
        tail = loss.tail_weights()
    is_foreground = labels < len(tail)
    of_label = torch.cat([tail, tail.new_zeros(1)])[labels]
    ignored = tail.sum() - of_label
    if verified is not None and getattr(loss, "image_level_labels", False):
        own = verified[image, labels.clamp(max=len(tail) - 1)]
        ignored = ignored - (verified.to(tail) @ tail)[image] + of_label * own
    if isinstance(loss, SoftmaxEqualizationLoss):
        ignored = ignored * loss.gamma
    if getattr(loss, "exclude_background", False):
        ignored = ignored * is_foreground
    negatives = len(labels) * len(tail) - is_foreground.sum()
    return torch.stack([tail.sum(), ignored.sum(), negatives.to(tail.dtype)])
