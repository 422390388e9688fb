"""Running sums of the gradients that a category receives, for losses that weigh by them.

Glossary:
    C: number of foreground categories.
    pos_j, neg_j: sums over the training of |dL/dz_j| over positive and negative samples of
        category j, shape (C,).
"""

import torch
import torch.distributed as dist
from torch import Tensor

#: As in the authors' code of EQL v2: a category that met no negatives has the ratio pos / 1e-10.
_RATIO_EPS = 1e-10


class GradientSums:
    """Mixin of the losses that need pos_j / neg_j; inherited before the base of the loss.

    The sums are persistent float64 buffers, so that a resumed run continues with its weights. Each
    forward pass adds to them: with accumulated gradients the weights change with every small batch,
    and a repeated forward pass (activation checkpointing around the loss) counts twice.
    """

    pos_grad: Tensor
    neg_grad: Tensor
    num_seen: Tensor

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes, **kwargs)
        self._reset_sums(num_classes or 0)

    def _reset_sums(self, num_classes: int) -> None:
        # Over a whole training, float32 would lose the small terms of a rare category.
        for name in ("pos_grad", "neg_grad"):
            self.register_buffer(name, torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    def get_cls_channels(self, num_classes: int) -> int:
        """See the base class; also gives the sums their shape."""
        channels = super().get_cls_channels(num_classes)
        if len(self.pos_grad) != num_classes:
            self._reset_sums(num_classes)
        return channels

    def gradient_ratio(self) -> Tensor:
        """Return g_j = pos_j / neg_j so far, float64 of shape (C,)."""
        return self.pos_grad / (self.neg_grad + _RATIO_EPS)

    def add_gradients(self, positive: Tensor, negative: Tensor, num_rows: int) -> None:
        """Add a forward pass of all ranks, which every rank has to reach.

        Args:
            positive, negative (Tensor): Of this rank, float64 of shape (C,).
            num_rows (int): Number of its samples.
        """
        # One message: the two sums, and whether any rank had a sample at all.
        step = torch.cat([positive, negative, positive.new_full((1,), num_rows)])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(step)
        positive, negative, seen = step.split([len(positive), len(negative), 1])
        self.pos_grad += positive
        self.neg_grad += negative
        self.num_seen += seen[0].long()
