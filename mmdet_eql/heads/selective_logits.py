"""Logits of a thousand categories, computed for the one category of each RoI.

A class-specific mask head ends in a 1x1 convolution with one output channel per category, and its
loss and its masks read a single channel of each RoI. Here the convolution waits until the labels
are known, and then applies one row of its weights to each RoI.

Glossary:
    N: number of RoIs.
    C: number of categories.
    D: number of channels that the convolution reads.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from mmdet.models.layers import NormedConv2d
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


class SelectableLogits:
    """The logits (N, C, h, w) of a 1x1 convolution, which exist only for labels that are asked for.

    It can be split by RoIs, as RoI heads do to go from batch to images. Whatever else a tensor
    could do is refused: code that expects all C channels must not take something else for them.

    Args:
        features (Tensor): What the convolution reads, shape (N, D, h, w).
        weight (Tensor): Its weight, shape (C, D, 1, 1).
        bias (Tensor, optional): Its bias, shape (C,).

    Example:
        >>> conv = nn.Conv2d(8, 5, 1)
        >>> features, labels = torch.rand(3, 8, 2, 2), torch.tensor([4, 0, 4])
        >>> logits = SelectableLogits(features, conv.weight, conv.bias).select(labels)
        >>> torch.allclose(logits[:, 0], conv(features)[range(3), labels], atol=1e-6)
        True
    """

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._features = features
        self._weight = weight
        self._bias = bias

    def select(self, labels: Tensor) -> Tensor:
        """Return the logits (N, 1, h, w) of one channel of each RoI, labels int64 of shape (N,)."""
        weight = self._weight[labels].flatten(start_dim=1).unsqueeze(1)
        logits = torch.bmm(weight, self._features.flatten(start_dim=2))
        if self._bias is not None:
            logits = logits + self._bias[labels][:, None, None]
        return logits.unflatten(2, self._features.shape[2:])

    def split(self, sizes: Sequence[int], dim: int = 0) -> tuple["SelectableLogits", ...]:
        """Split by RoIs, as ``Tensor.split`` with ``dim=0``."""
        if dim != 0:
            self._refuse(f"split(dim={dim})")
        parts = self._features.split(sizes, dim=0)
        return tuple(SelectableLogits(part, self._weight, self._bias) for part in parts)

    def __getattr__(self, name: str) -> NoReturn:
        # Python asks every object for its optional protocols (copying, pickling) by such names.
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse(name)

    def __getitem__(self, index: Any) -> NoReturn:
        self._refuse("indexing")

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            "A selective mask head computes the logits of each RoI's own category alone, but its "
            f"RoI head asks for those of all categories ({what}); set roi_head.type to "
            "'SelectiveMaskCascadeRoIHead' or 'SelectiveMaskHTCRoIHead' for a cascade, or else "
            "mask_head.type to mmdet's own mask head."
        )


class _SelectiveConvMixin:
    """Makes a 1x1 ``nn.Conv2d``, or a convolution derived from it, give selectable logits."""

    def _conv_forward(
        self, features: Tensor, weight: Tensor, bias: Tensor | None
    ) -> SelectableLogits:
        return SelectableLogits(features, weight, bias)


@MODELS.register_module()
class SelectiveConv2d(_SelectiveConvMixin, nn.Conv2d):
    """A 1x1 ``nn.Conv2d`` whose output is :class:`SelectableLogits`."""


@MODELS.register_module()
class SelectiveNormedConv2d(_SelectiveConvMixin, NormedConv2d):
    """A 1x1 ``NormedConv2d`` of mmdet whose output is :class:`SelectableLogits`."""
