"""What a loss knows of the training set: how often each category occurs.

A loss inherits :class:`FrequencyAware` or :class:`CountAware` before its base. The statistics are
set once, before training, by ``ClassFrequencyHook``, and live in a persistent buffer, so that a
checkpoint is evaluated without the training annotations and resumed with the same statistics.

Glossary:
    C: number of foreground categories.
    f_j: frequency, the share of the training images that contain category j, shape (C,).
    n_j: number of training instances (images in image classification) of category j, shape (C,).
"""

import numpy as np
import torch
from torch import Tensor

from mmdet_eql.utils.errors import UserError

_PLURAL = {"class_frequency": "class frequencies", "class_counts": "class counts"}


class ClassStatistics:
    """Mixin for a module with ``num_classes``: statistics of the categories in buffers."""

    #: Names of the buffers, each float64 of shape (C,), NaN before the statistic was set.
    statistics: tuple[str, ...] = ()

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self._reset_statistics(num_classes or 0)

    def _reset_statistics(self, num_classes: int) -> None:
        for name in self.statistics:
            unknown = torch.full((num_classes,), torch.nan, dtype=torch.float64)
            self.register_buffer(name, unknown)

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
        """Set the class frequencies.

        Args:
            freq (Tensor | np.ndarray): f_j, float of shape (C,), each in [0, 1].

        Raises:
            UserError: If the shape is not (C,), or a value is out of range.
        """
        freq = torch.as_tensor(freq).detach()
        if not freq.is_floating_point() or not _are_shares(freq):
            raise UserError(
                f"{type(self).__name__}: class frequencies must be floats between 0 and 1 (images "
                "of a category over all images); counts have to be divided by the number of images."
            )
        self._set_statistic("class_frequency", freq)

    def known_class_frequency(self) -> Tensor:
        """Return f_j, float64 of shape (C,).

        Raises:
            UserError: If they were not set, or those of a checkpoint are out of range.
        """
        freq = self._known_statistic("class_frequency")
        if not _are_shares(freq):
            raise UserError(
                f"{type(self).__name__}: the class frequencies of the checkpoint are not between 0 "
                "and 1; train with dict(type='ClassFrequencyHook') in custom_hooks, which counts "
                "them anew."
            )
        return freq


class CountAware(ClassStatistics):
    """Mixin of the losses that need n_j, in the buffer ``class_counts``."""

    statistics = ("class_counts",)
    class_counts: Tensor

    def set_class_counts(self, counts: Tensor | np.ndarray) -> None:
        """Set the numbers of training instances.

        Args:
            counts (Tensor | np.ndarray): n_j, whole numbers of any type, shape (C,).

        Raises:
            UserError: If the shape is not (C,), or a value is negative or not whole.
        """
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


def _are_shares(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
