"""Recording the positive and negative gradient of each category while a model trains."""

import math
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.engine.gradient_file import (
    FILE_NAME,
    QUANTITIES,
    empty_record,
    gradient_ratio,
    group_medians,
    load_gradient_record,
)
from mmdet_eql.frequency import GROUP_NAMES, class_frequency_of
from mmdet_eql.losses import split_target
from mmdet_eql.utils.errors import UserError

#: The classifier of mmdet's box heads, and that of our classification head.
_CLASSIFIERS = ("fc_cls", "classifier")
#: Iterations between two logged ratios.
_LOG_INTERVAL = 50
#: Numbers of a gradient that are taken at a time: a dense head has a hundred million.
_BLOCK = 2**24


@HOOKS.register_module()
class GradientRecordHook(Hook):
    """Record how strongly each category is pushed up by its positives and down by its negatives.

    :mod:`mmdet_eql.engine.gradient_file` defines what is recorded, for every head and loss; the
    training is not changed. Dense and query heads, whose classifiers are convolutions or shared by
    queries, need ``quantity="logits"``; the levels or layers of a head are one sum. Logits beyond
    the C categories (background, the groups of BAGS) are left out. With automatic mixed precision
    the gradients are those before the scaling, and a step that overflows does not count.

    The sums are averaged over the ranks, saved in the checkpoints and written to
    ``gradient_record.npz`` in the work_dir. The median of pos_j / neg_j of each group since the
    start is logged as ``train/gradient_ratio_rare``, ``..._common`` and ``..._frequent``.

    Args:
        interval (int): Iterations between two notes, at least 1.
        quantity (str): ``"weights"``, as in the EQL paper, which asks for a linear classifier, or
            ``"logits"``, as in EQL v2.

    Example, in a config::

        default_hooks = dict(gradient_record=dict(type="GradientRecordHook"))
    """

    def __init__(self, interval: int = 500, quantity: str = "weights") -> None:
        if interval < 1:
            raise UserError(f"GradientRecordHook: interval is {interval}; it must be at least 1.")
        if quantity not in QUANTITIES:
            choices = ", ".join(map(repr, QUANTITIES))
            raise UserError(f"GradientRecordHook: quantity is {quantity!r}; give one of {choices}.")
        self.interval = interval
        self.quantity = quantity
        self._resumed: dict = {}

    def before_train(self, runner: Runner) -> None:
        """Put hooks on the classifiers, and take up the record of a resumed run.

        A UserError if there is no classifier whose gradients can be recorded.
        """
        model = bare_model(runner)
        frequency = class_frequency_of(runner.train_dataloader.dataset)
        heads = _heads(model, len(frequency))
        if not heads:
            raise UserError(
                "GradientRecordHook: the model has no head with 'loss_cls' and the dataset's "
                "number of categories; remove the hook from the config."
            )
        self.record = empty_record(self.quantity, tuple(heads), frequency)
        device = next(model.parameters()).device
        shape = (len(heads), 2, len(frequency))
        # Over a whole training, float32 would swallow the small terms of a rare category.
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self._step = torch.zeros_like(self.sums)
        if runner.iter > 0:
            self._resume(runner)
        self._handles = []
        for (name, (classifier, loss)), step in zip(heads.items(), self._step, strict=True):
            probe, forward = _Probe(step), getattr(type(classifier), "forward", None)
            if self.quantity == "weights" and forward is not nn.Linear.forward:
                kind = "convolution" if classifier is None else type(classifier).__name__
                raise UserError(
                    f"GradientRecordHook: the classifier of model.{name} is a {kind}, whose "
                    "gradients on the weights are not those of a linear one; set quantity='logits' "
                    "for the hook."
                )
            self._handles.append(loss.register_forward_pre_hook(probe.see_logits))
            if self.quantity == "weights":
                self._handles.append(classifier.register_forward_pre_hook(probe.see_features))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note by what automatic mixed precision multiplies the gradients of this iteration."""
        scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
        self._scale = scaler.get_scale() if scaler is not None else 1.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add the gradients of this iteration to the sums."""
        step = self._step / self._scale
        self._step.zero_()
        all_reduce(step, op="mean")
        self.sums += torch.where(step.isfinite().all(), step, torch.zeros_like(step))
        iteration = runner.iter + 1
        if iteration % self.interval == 0:
            self._note(runner, iteration)
        if iteration % _LOG_INTERVAL:
            return
        ratio = gradient_ratio(*self.sums.sum(dim=0).cpu().numpy())
        for letter, median in group_medians(ratio, self.record.class_frequency.group).items():
            if math.isfinite(median):
                name = f"train/gradient_ratio_{GROUP_NAMES[letter]}"
                runner.message_hub.update_scalar(name, median, resumed=False)

    def after_train(self, runner: Runner) -> None:
        """Note the last sums, and take the hooks off."""
        if runner.iter > 0 and runner.iter not in self.record.iterations:
            self._note(runner, runner.iter)
        for handle in self._handles:
            handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a resumed run go on with the sums."""
        if hasattr(self, "sums"):
            checkpoint["gradient_record"] = dict(
                quantity=self.quantity, heads=list(self.record.heads), sums=self.sums.cpu()
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the sums until it is known whether the run is resumed or fine-tuned."""
        self._resumed = checkpoint.get("gradient_record", {})

    def _resume(self, runner: Runner) -> None:
        known = self._resumed.get("quantity"), tuple(self._resumed.get("heads", ()))
        sums = self._resumed.get("sums")
        if known != (self.quantity, self.record.heads) or sums.shape != self.sums.shape:
            runner.logger.warning(
                "GradientRecordHook: the resumed checkpoint holds no sums of these gradients; the "
                f"record begins at iteration {runner.iter}."
            )
            return
        self.sums.copy_(sums)
        if not is_main_process():
            return
        try:
            record = load_gradient_record(runner.work_dir)
        except UserError as error:
            runner.logger.warning(f"The record of gradients goes on without its past: {error}")
            return
        if record.matches(self.record):
            self.record = record.until(runner.iter)

    def _note(self, runner: Runner, iteration: int) -> None:
        if is_main_process():
            positive, negative = self.sums.cpu().numpy().swapaxes(0, 1)
            self.record = self.record.with_note(iteration, positive, negative)
            self.record.save(Path(runner.work_dir) / FILE_NAME)


class _Probe:
    """Adds the gradients on one classifier to ``step``, float64 of shape (2, C), multiplied by
    ||x_i|| if it saw the features."""

    def __init__(self, step: Tensor) -> None:
        self.step = step
        self.norms: Tensor | None = None

    def see_features(self, classifier: nn.Module, inputs: tuple) -> None:
        """Before the classifier: x of shape (N, D)."""
        if inputs[0].ndim != 2:
            raise UserError(
                "GradientRecordHook: the classifier of a query head has no rows of its own for the "
                "samples of the loss; set quantity='logits' for the hook."
            )
        if torch.is_grad_enabled():
            self.norms = inputs[0].detach().float().norm(dim=1)

    def see_logits(self, loss: nn.Module, inputs: tuple) -> None:
        """Before the loss: logits of shape (N, K) and its target."""
        cls_score, num_classes = inputs[0], self.step.shape[1]
        labels, _ = split_target(inputs[1], num_classes)
        if not torch.is_grad_enabled() or not cls_score.requires_grad:
            return
        norms = cls_score.new_ones(len(labels)) if self.norms is None else self.norms
        # TOOD hands over p: dL/dz = dL/dp p (1 - p).
        p = cls_score.detach() if getattr(loss, "activated", False) else None

        def add(gradient: Tensor) -> None:
            size = max(_BLOCK // max(gradient.shape[1], 1), 1)
            for start in range(0, len(gradient), size):
                rows = slice(start, start + size)
                part = gradient[rows] if p is None else gradient[rows] * p[rows] * (1 - p[rows])
                self.step += gradient_sums(part, labels[rows], num_classes, norms[rows])

        cls_score.register_hook(add)


@torch.no_grad()
def gradient_sums(
    gradient: Tensor, labels: Tensor, num_classes: int, norms: Tensor | None = None
) -> Tensor:
    """Return pos_j and neg_j of one batch of proposals, float32 of shape (2, C).

    Args:
        gradient (Tensor): dL/dz of shape (N, K), K >= C; further columns are left out.
        labels (Tensor): int64 of shape (N,), in [0, C]; C means background.
        num_classes (int): C.
        norms (Tensor, optional): ||x_i|| of shape (N,); 1 by default.
    """
    size = gradient[:, :num_classes].float().abs()
    if norms is None:
        norms = size.new_ones(len(size))
    # No row is looked for, which would wait for the GPU: background takes part with a zero.
    own = labels.clamp(max=num_classes - 1)
    is_own = labels < num_classes
    of_own = size.gather(1, own[:, None])[:, 0]
    positive = size.new_zeros(num_classes).index_add_(0, own, of_own * norms * is_own)
    size.scatter_(1, own[:, None], (of_own * ~is_own)[:, None])
    return torch.stack([positive, norms @ size])


def _heads(model: nn.Module, num_classes: int) -> dict[str, tuple[nn.Module | None, nn.Module]]:
    """The classifier, None of a dense head, and the loss of each head of categories, by name."""
    heads = {}
    for name, module in model.named_modules():
        loss = getattr(module, "loss_cls", None)
        layers = [getattr(module, attribute, None) for attribute in _CLASSIFIERS]
        layers = [layer for layer in layers if isinstance(layer, nn.Module)]
        is_dense = getattr(module, "num_classes", None) == num_classes and "rpn_head" not in name
        if isinstance(loss, nn.Module) and (layers or is_dense):
            heads[name] = (layers[0] if layers else None, loss)
    return heads
