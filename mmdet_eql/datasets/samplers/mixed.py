"""Drawing from several samplers in turn, in shares that may shift over the epochs."""

from collections.abc import Sequence, Sized

import numpy as np
from mmengine.registry import DATA_SAMPLERS

from mmdet_eql.datasets.samplers.stream import StreamSampler
from mmdet_eql.utils.errors import UserError


@DATA_SAMPLERS.register_module()
class MixedSampler(StreamSampler):
    """A mixture of samplers, for example half instance-balanced and half class-aware.

    Of each epoch's indices, every sampler gives its share, going on where it stopped in the epoch
    before; they come in random order. With ``final_weights`` the shares move in equal steps from
    ``weights`` in the first epoch to ``final_weights`` in epoch ``num_epochs``: from
    instance-balanced to class-balanced, this is progressively balanced sampling (Kang et al.,
    arXiv 1910.09217, section 4.1).

    Args:
        dataset (Sized): The training dataset, wrapped or not.
        samplers (Sequence[dict]): Configs of samplers of this package.
        weights (Sequence[float], optional): One for each sampler; equal if None.
        final_weights (Sequence[float], optional): Weights in epoch ``num_epochs`` and later.
        num_epochs (int, optional): Number of epochs until ``final_weights``.
        num_samples, seed, infinite: See :class:`StreamSampler`.

    Raises:
        UserError: If the weights do not fit the samplers, or a sampler is of another kind.

    Example:
        >>> train_dataloader = dict(
        ...     sampler=dict(
        ...         type="MixedSampler",
        ...         samplers=[
        ...             dict(type="RepeatFactorSampler", repeat_threshold=0),  # each image once
        ...             dict(type="CategoryAwareSampler"),
        ...         ],
        ...     )
        ... )
    """

    def __init__(
        self,
        dataset: Sized,
        samplers: Sequence[dict],
        weights: Sequence[float] | None = None,
        final_weights: Sequence[float] | None = None,
        num_epochs: int | None = None,
        num_samples: int | None = None,
        seed: int | None = None,
        infinite: bool = False,
    ) -> None:
        super().__init__(dataset, seed, infinite, num_samples)
        if (final_weights is None) != (num_epochs is None):
            raise UserError(
                "MixedSampler: 'final_weights' and 'num_epochs' belong together; give both or "
                "neither."
            )
        if num_epochs is not None and num_epochs < 2:
            raise UserError(
                f"MixedSampler: 'num_epochs' is {num_epochs}; the shares need at least 2 epochs to "
                "shift."
            )
        self._first = _shares(weights or [1] * len(samplers), len(samplers), "weights")
        self._last = self._first
        if final_weights is not None:
            self._last = _shares(final_weights, len(samplers), "final_weights")
        self._num_epochs = num_epochs
        self.samplers = []
        for number, config in enumerate(samplers, start=1):
            # A seed of its own: equal samplers must not draw the same.
            part = DATA_SAMPLERS.build(
                config, default_args=dict(dataset=dataset, seed=self.seed + 7919 * number)
            )
            if not isinstance(part, StreamSampler):
                raise UserError(
                    f"MixedSampler: 'samplers' holds {config['type']!r}, which cannot be mixed; "
                    "give RepeatFactorSampler (repeat_threshold=0 takes each image once), "
                    "CategoryAwareSampler or MixedSampler."
                )
            self.samplers.append(part)

    def num_drawn(self, epoch: int) -> np.ndarray:
        """How many indices of an epoch each sampler gives, int64 of shape (samplers,)."""
        progress = min(epoch / (self._num_epochs - 1), 1.0) if self._num_epochs else 0.0
        shares = (1 - progress) * self._first + progress * self._last
        bounds = np.rint(np.cumsum(shares) * self.num_samples).astype(np.int64)
        return np.diff(bounds, prepend=0)

    def epoch_indices(self, epoch: int) -> np.ndarray:
        drawn = np.array([self.num_drawn(number) for number in range(epoch + 1)])
        stops = drawn.sum(axis=0)
        bounds = np.stack([stops - drawn[-1], stops], axis=1).tolist()
        parts = [part.stream(*bound) for part, bound in zip(self.samplers, bounds, strict=True)]
        return np.random.default_rng((self.seed, epoch)).permutation(np.concatenate(parts))


def _shares(weights: Sequence[float], number: int, name: str) -> np.ndarray:
    shares = np.asarray(weights, dtype=np.float64)
    if number == 0 or shares.shape != (number,):
        raise UserError(
            f"MixedSampler: '{name}' has {shares.size} numbers for {number} 'samplers'; give one "
            "for each of at least one sampler."
        )
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() == 0:
        raise UserError(
            f"MixedSampler: '{name}' is {list(weights)}; give numbers of at least 0, not all 0."
        )
    return shares / shares.sum()
