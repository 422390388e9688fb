"""What the samplers share: one order of indices for all ranks, from any position on.

Glossary:
    M: number of images of the dataset.
    epoch: a list of indices that depends on the seed and the epoch's number alone; it is the same
        on all ranks.
    stream: all epochs, one after another.
    position: place in the stream. Rank k of K ranks draws the positions k, k + K, k + 2 K, ...
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmdet_eql.utils.errors import UserError


class StreamSampler(Sampler):
    """Base of the samplers here, for epoch- and iteration-based loops.

    A subclass says what an epoch holds. In an epoch-based loop each rank draws every K-th index of
    the epoch, padded from its beginning until K divides it, as mmengine's ``DefaultSampler`` does.
    With ``infinite=True``, for iteration-based loops, the ranks draw from the stream without
    padding, as mmengine's ``InfiniteSampler`` does.

    Args:
        dataset (Sized): The dataset.
        seed (int, optional): The same on all ranks; mmengine's runner gives it. None draws one
            that is shared by all ranks.
        infinite (bool): Whether the indices go on without end.
        num_samples (int, optional): Indices in an epoch, on all ranks together, unless
            ``epoch_length`` says otherwise. None takes the number of images.

    Raises:
        UserError: If the dataset is empty, or ``num_samples`` is not positive.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int | None = None,
        infinite: bool = False,
        num_samples: int | None = None,
    ) -> None:
        name = type(self).__name__
        if len(dataset) == 0:
            raise UserError(f"{name}: the training dataset has no images; check its 'filter_cfg'.")
        self.num_samples = len(dataset) if num_samples is None else num_samples
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise UserError(
                f"{name}: 'num_samples' is {num_samples!r}; give a whole number of at least 1, or "
                "None for as many as there are images."
            )
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.infinite = infinite
        self.epoch = 0

    def epoch_length(self, epoch: int) -> int:
        """Number of indices in an epoch, on all ranks together; at least 1."""
        return self.num_samples

    @abstractmethod
    def epoch_indices(self, epoch: int) -> np.ndarray:
        """The indices of an epoch in their order, int64 of shape (epoch_length(epoch),)."""

    def stream(self, start: int, stop: int) -> np.ndarray:
        """The indices at the positions from ``start`` up to ``stop``, int64."""
        parts = [np.empty(0, dtype=np.int64)]
        epochs = self._epochs_from(start)
        while start < stop:
            parts.append(next(epochs)[: stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def __iter__(self) -> Iterator[int]:
        """The indices of this rank: of the current epoch, or without end."""
        if self.infinite:
            return self._endless()
        # np.resize repeats the indices as often as it takes.
        padded = np.resize(self.epoch_indices(self.epoch), len(self) * self.world_size)
        return iter(padded[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        """Number of this rank's indices in the current epoch."""
        return math.ceil(self.epoch_length(self.epoch) / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next; without effect on an infinite sampler."""
        if not self.infinite:
            self.epoch = epoch

    def _endless(self) -> Iterator[int]:
        first = 0  # of this rank's positions in what is left of an epoch
        for indices in self._epochs_from(self.rank):
            yield from indices[first :: self.world_size].tolist()
            first = (first - len(indices)) % self.world_size

    def _epochs_from(self, position: int) -> Iterator[np.ndarray]:
        """The stream from a position on, epoch by epoch, without end."""
        for epoch in itertools.count():
            length = self.epoch_length(epoch)
            if position < length:
                yield self.epoch_indices(epoch)[position:]
            position = max(position - length, 0)
