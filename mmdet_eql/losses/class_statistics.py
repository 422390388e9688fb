"""What a loss knows of the training set: how often each category occurs.

A loss that needs such figures inherits one of the mixins, before the class that gives it its
logits. The figures are handed over once, before training, and live in a persistent buffer: a
checkpoint evaluates where the training annotations are not, and resumes with the same figures.

Glossary:
    C: number of foreground categories.
    f_j: frequency, the share of the training images that contain category j, shape (C,).
    n_j: number of training instances (samples, for a plain classifier) of category j, shape (C,).
"""

import numpy as np
import torch
from torch import Tensor

from mmdet_eql.utils.errors import UserError


def unknown_per_class(num_classes: int | None) -> Tensor:
    """A buffer before anything was handed over.

    Args:
        num_classes (int, optional): C, if it is known.

    Returns:
        Tensor: NaN, but of its final shape, so that every checkpoint of the model has it. Float64,
        which keeps comparisons such as f < lambda exact.
    """
    return torch.full((num_classes or 0,), float("nan"), dtype=torch.float64)


class UnchangedTensor:
    """A tensor to be recognised while nothing was written into it.

    What follows from its values, such as that they are valid, need not be found out again; on a GPU
    that waits for all work before. Loading a checkpoint writes into a buffer, moving a module
    replaces it: neither is the same tensor.

    Example:
        >>> known, buffer = UnchangedTensor(), torch.zeros(2)
        >>> known.remember(buffer)
        >>> known.is_(buffer), known.is_(buffer.clone()), known.is_(buffer.add_(1))
        (True, False, False)
    """

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._version = 0

    def is_(self, tensor: Tensor) -> bool:
        """Whether this very tensor was remembered, and has its values of then."""
        return tensor is self._tensor and tensor._version == self._version

    def remember(self, tensor: Tensor) -> None:
        """Remember a tensor instead of the one before."""
        # Inference tensors do not count what is written into them.
        if not tensor.is_inference():
            self._tensor, self._version = tensor, tensor._version


class FrequencyAware:
    """Mixin of the losses that need f_j, in the buffer ``class_frequency``.

    ``ClassFrequencyHook`` hands them over.
    """

    class_frequency: Tensor

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self.register_buffer("class_frequency", unknown_per_class(num_classes))
        self._complete_frequency = UnchangedTensor()

    def get_cls_channels(self, num_classes: int) -> int:
        """See the base class; also gives the frequency buffer its shape."""
        channels = super().get_cls_channels(num_classes)
        if len(self.class_frequency) != num_classes:
            self.class_frequency = unknown_per_class(num_classes)
        return channels

    def set_class_frequency(self, freq: Tensor | np.ndarray) -> None:
        """Hand over the class frequencies.

        Args:
            freq (Tensor | np.ndarray): f_j, float of shape (C,), each in [0, 1].

        Raises:
            UserError: If there are not C of them, or one is out of range.
        """
        freq = torch.as_tensor(freq).detach()
        if self.num_classes is None:
            self.get_cls_channels(len(freq))
        _check_shape(self, freq, "class frequencies")
        if not freq.is_floating_point() or not bool(((freq >= 0) & (freq <= 1)).all()):
            raise UserError(
                f"{type(self).__name__}: class frequencies must be floats between 0 and 1 (images "
                "of a category over all images); counts have to be divided by the number of images."
            )
        self.class_frequency = freq.to(self.class_frequency)

    def known_class_frequency(self) -> Tensor:
        """The frequencies that were handed over.

        Returns:
            Tensor: f_j, float64 of shape (C,).

        Raises:
            UserError: If there are none.
        """
        if not self._complete_frequency.is_(self.class_frequency):
            if torch.isnan(self.class_frequency).any():
                raise UserError(
                    f"{type(self).__name__} has no class frequencies; add "
                    "dict(type='ClassFrequencyHook') to custom_hooks, or call "
                    "set_class_frequency()."
                )
            if not bool(((self.class_frequency >= 0) & (self.class_frequency <= 1)).all()):
                raise UserError(
                    f"{type(self).__name__}: the class frequencies of the checkpoint are not "
                    "between 0 and 1; train with dict(type='ClassFrequencyHook') in custom_hooks, "
                    "which counts them anew."
                )
            self._complete_frequency.remember(self.class_frequency)
        return self.class_frequency


class CountAware:
    """Mixin of the losses that need n_j, in the buffer ``class_counts``."""

    class_counts: Tensor

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self.register_buffer("class_counts", unknown_per_class(num_classes))
        self._complete_counts = UnchangedTensor()

    def get_cls_channels(self, num_classes: int) -> int:
        """See the base class; also gives the buffer of counts its shape."""
        channels = super().get_cls_channels(num_classes)
        if len(self.class_counts) != num_classes:
            self.class_counts = unknown_per_class(num_classes)
        return channels

    def set_class_counts(self, counts: Tensor | np.ndarray) -> None:
        """Hand over the numbers of training instances.

        Args:
            counts (Tensor | np.ndarray): n_j, whole numbers of shape (C,), of any type.

        Raises:
            UserError: If there are not C of them, or one is negative or not whole.
        """
        counts = torch.as_tensor(counts).detach()
        if self.num_classes is None:
            self.get_cls_channels(len(counts))
        _check_shape(self, counts, "class counts")
        counts = counts.to(self.class_counts)
        if not bool(((counts >= 0) & (counts == counts.floor())).all()):
            raise UserError(
                f"{type(self).__name__}: class counts must be whole numbers of training instances, "
                "at least 0; give counts, not frequencies."
            )
        self.class_counts = counts

    def known_class_counts(self) -> Tensor:
        """The counts that were handed over.

        Returns:
            Tensor: n_j, float64 of shape (C,).

        Raises:
            UserError: If there are none.
        """
        if not self._complete_counts.is_(self.class_counts):
            if torch.isnan(self.class_counts).any():
                raise UserError(
                    f"{type(self).__name__} has no class counts; add "
                    "dict(type='ClassFrequencyHook') to custom_hooks, or call set_class_counts()."
                )
            self._complete_counts.remember(self.class_counts)
        return self.class_counts


def _check_shape(loss, figures: Tensor, what: str) -> None:
    if figures.shape != (loss.num_classes,):
        raise UserError(
            f"{type(loss).__name__}: got {'x'.join(map(str, figures.shape))} {what} "
            f"for {loss.num_classes} logits; set num_classes of bbox_head, mask_head and "
            "loss_cls to the number of categories of the training annotations."
        )
