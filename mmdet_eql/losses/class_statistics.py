"""What a loss knows of each category: frequency, instances, gradients received, mean score.

A loss inherits a mixin of this file before its base. Its statistics live in persistent buffers, so
that a checkpoint is evaluated without the training annotations and resumed with the same weights.
Frequencies and counts are set once, before training, by ``ClassFrequencyHook``.

Glossary, and that of :mod:`mmdet_eql.losses.base`:
    pos_j, neg_j: sums over the training of |dL/dz_j| over positive and negative samples of
        category j, shape (C,).
"""

from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmdet_eql.losses.focal_rows import WithGradient, focal_rows, row_blocks
from mmdet_eql.utils.errors import UserError

_PLURAL = {"class_frequency": "class frequencies", "class_counts": "class counts"}
#: As in the authors' code of EQL v2: a category that met no negatives has the ratio pos / 1e-10.
_RATIO_EPS = 1e-10


class ClassStatistics:
    """Mixin for a module with ``num_classes``: statistics of the categories in buffers."""

    #: Names of the buffers, each float64 of shape (C,), and what they are filled with at first.
    statistics: tuple[str, ...] = ()
    initial_value = torch.nan

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self._reset_statistics(num_classes or 0)
        self.register_load_state_dict_pre_hook(_take_size)

    def _reset_statistics(self, num_classes: int) -> None:
        for name in self.statistics:
            values = torch.full((num_classes,), self.initial_value, dtype=torch.float64)
            self.register_buffer(name, values)

    def get_cls_channels(self, num_classes: int) -> int:
        """See the base class; also gives the buffers their shape."""
        was_unknown = self.num_classes is None
        channels = super().get_cls_channels(num_classes)
        if was_unknown:
            self._reset_statistics(num_classes)
        return channels

    def _set_statistic(self, name: str, values: Tensor) -> None:
        if self.num_classes is None:
            self.get_cls_channels(len(values))
        if values.shape != (self.num_classes,):
            raise UserError(
                f"{type(self).__name__}: got {'x'.join(map(str, values.shape))} "
                f"{_PLURAL[name]} for {self.num_classes} categories; set num_classes of "
                "bbox_head, mask_head and loss_cls to the number of categories of the training "
                "annotations."
            )
        setattr(self, name, values.to(getattr(self, name)))

    def _known_statistic(self, name: str) -> Tensor:
        values = getattr(self, name)
        if torch.isnan(values).any():
            raise UserError(
                f"{type(self).__name__} has no {_PLURAL[name]}; add "
                f"dict(type='ClassFrequencyHook') to custom_hooks, or call set_{name}()."
            )
        return values


class FrequencyAware(ClassStatistics):
    """Mixin of the losses that need f_j, in the buffer ``class_frequency``."""

    statistics = ("class_frequency",)
    class_frequency: Tensor

    def set_class_frequency(self, freq: Tensor | np.ndarray) -> None:
        """Set f_j, float of shape (C,), each in [0, 1]; a UserError for anything else."""
        freq = torch.as_tensor(freq).detach()
        if not freq.is_floating_point() or not _are_shares(freq):
            raise UserError(
                f"{type(self).__name__}: class frequencies must be floats between 0 and 1 (images "
                "of a category over all images); counts have to be divided by the number of images."
            )
        self._set_statistic("class_frequency", freq)

    def known_class_frequency(self) -> Tensor:
        """Return f_j, float64 of shape (C,); a UserError if they were not set, or those of a
        checkpoint are out of range."""
        freq = self._known_statistic("class_frequency")
        if not _are_shares(freq):
            raise UserError(
                f"{type(self).__name__}: the class frequencies of the checkpoint are not between 0 "
                "and 1; train with dict(type='ClassFrequencyHook') in custom_hooks, which counts "
                "them anew."
            )
        return freq

    def occurring_class_frequency(self) -> Tensor:
        """Return f_j, float64 of shape (C,), and that of the rarest category that occurs for those
        that never do; a UserError if none does, or the frequencies are missing."""
        freq = self.known_class_frequency()
        if not bool((freq > 0).any()):
            raise UserError(
                f"{type(self).__name__}: all class frequencies are 0; check that the training "
                "annotations have objects."
            )
        return freq.clamp(min=freq[freq > 0].min())


class CountAware(ClassStatistics):
    """Mixin of the losses that need n_j, in the buffer ``class_counts``."""

    statistics = ("class_counts",)
    class_counts: Tensor

    def set_class_counts(self, counts: Tensor | np.ndarray) -> None:
        """Set n_j, whole numbers >= 0 of any type, shape (C,); a UserError for anything else."""
        counts = torch.as_tensor(counts).detach().to(torch.float64)
        if not bool(((counts >= 0) & (counts == counts.floor())).all()):
            raise UserError(
                f"{type(self).__name__}: class counts must be whole numbers of training instances, "
                "at least 0; give counts, not frequencies."
            )
        self._set_statistic("class_counts", counts)

    def known_class_counts(self) -> Tensor:
        """Return n_j, float64 of shape (C,); a UserError if they were not set."""
        return self._known_statistic("class_counts")


class RunningStatistics(ClassStatistics):
    """Mixin of statistics that follow the training: two sums over the samples of each forward pass.

    They are added over all ranks, which every rank then has to reach. Dense and query heads call
    their loss for each level or layer, and some do not call it on a rank without objects:
    ``ClassFrequencyHook`` therefore has them added after each iteration (:meth:`defer`,
    :meth:`add_deferred`). With accumulated gradients the weights change with every small batch, and
    a repeated pass (activation checkpointing around the loss) counts twice.
    """

    num_seen: Tensor  #: Number of samples so far, int64 scalar.

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))
        self._deferred: Tensor | None = None

    def update(self, first: Tensor, second: Tensor) -> None:
        """Take in the sums of a pass over all ranks, each float64 of shape (C,)."""
        raise NotImplementedError

    def add_pass(self, first: Tensor, second: Tensor, num_rows: int) -> None:
        """Add a forward pass: the sums of this rank, each float64 of shape (C,), and the number of
        its samples."""
        step = torch.cat([first, second, first.new_full((1,), num_rows)])
        if self._deferred is None:
            self._add(step)
        else:
            self._deferred += step

    def defer(self) -> None:
        """Let forward passes wait for :meth:`add_deferred` from now on."""
        values = getattr(self, self.statistics[0])
        self._deferred = values.new_zeros(2 * len(values) + 1)

    def add_deferred(self) -> None:
        """Add the forward passes since the last call; every rank has to call it."""
        self._add(self._deferred)
        self._deferred.zero_()

    def _add(self, step: Tensor) -> None:
        # One message: the two sums, and whether any rank had a sample at all.
        step = step.clone()
        all_reduce(step)
        self.update(*step[:-1].chunk(2))
        self.num_seen += step[-1].long()


class GradientSums(RunningStatistics):
    """Mixin of the losses that need pos_j / neg_j, in the buffers ``pos_grad`` and ``neg_grad``."""

    # Over a whole training, float32 would lose the small terms of a rare category.
    statistics = ("pos_grad", "neg_grad")
    initial_value = 0.0
    pos_grad: Tensor
    neg_grad: Tensor

    def gradient_ratio(self) -> Tensor:
        """Return g_j = pos_j / neg_j so far, float64 of shape (C,)."""
        return self.pos_grad / (self.neg_grad + _RATIO_EPS)

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add the sums of positives and of negatives."""
        self.pos_grad += first
        self.neg_grad += second

    def with_sums(self, logits: Tensor, labels: Tensor, weight: Tensor | None, *how: Any) -> Tensor:
        """Return the losses of the rows (N,) with their gradient, which in training is added to the
        sums, times the weights of the rows.

        ``how`` are the other arguments of :func:`~mmdet_eql.losses.focal_rows.focal_rows`. A logit
        beyond the C categories has no sums.
        """
        losses, gradient, (row, label, derivative) = focal_rows(logits.detach(), labels, *how)
        if self.training and torch.is_grad_enabled():
            of_row = gradient.new_ones(len(gradient)) if weight is None else weight
            of_row = of_row.to(gradient.dtype)
            negative = gradient.new_zeros(gradient.shape[1], dtype=torch.float64)
            with torch.autocast(gradient.device.type, enabled=False):  # for the matrix product
                for rows in row_blocks(gradient):
                    negative += of_row[rows] @ gradient[rows]
            positive = torch.zeros_like(negative)
            positive.index_add_(0, label, (of_row[row] * derivative.abs()).double())
            num_classes = len(self.pos_grad)
            self.add_pass(positive[:num_classes], negative[:num_classes], len(gradient))
        gradient[row, label] = derivative
        return WithGradient.apply(logits, losses, gradient)


class MeanScores(RunningStatistics):
    """Mixin of the losses that need s_j, the mean score of the samples of category j at their own
    category, in the buffer ``mean_score``: a moving average over the passes that have some."""

    statistics = ("mean_score",)
    initial_value = 0.01
    momentum = 0.9
    mean_score: Tensor

    def update(self, first: Tensor, second: Tensor) -> None:
        """Move s_j towards the mean score, from the sums of scores and the numbers of samples."""
        new = torch.where(second > 0, first / second.clamp(min=1), self.mean_score)
        self.mean_score.lerp_(new, 1 - self.momentum)


def _take_size(module: ClassStatistics, state_dict: dict, prefix: str, *_) -> None:
    # A model that is built for inference alone: nobody has said C before its checkpoint does.
    values = state_dict.get(f"{prefix}{module.statistics[0]}")
    if module.num_classes is None and values is not None and len(values):
        module.get_cls_channels(len(values))


def _are_shares(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
