"""A resumed run takes the random decisions that an unbroken one would have taken.

A checkpoint holds no state of a random number generator, and could not hold those of worker
processes, which read ahead. Here each iteration draws from a stream of its own instead, which
follows from the seed, the rank and the iteration: it is the same wherever a run was broken off.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, get_worker_info

#: Streams of an iteration: its data, and what the model does with it.
_LOADING, _STEP = 0, 1


@HOOKS.register_module()
class ResumeRandomnessHook(Hook):
    """Seed Python, NumPy and PyTorch anew for each iteration, and for each batch in the workers.

    What a resumed run then draws (flips and crops of images, the proposals sampled for the losses)
    is what the unbroken run drew. This holds for iteration-based runs with an endless sampler and
    for epoch-based runs, which may be resumed within an epoch; with the same kind of device and the
    same number of ranks, the weights are then equal as far as the operators are deterministic.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Seed the worker processes, before they start to read."""
        loop = runner.train_loop
        dataloader = loop.dataloader
        epoch_based = isinstance(loop, EpochBasedTrainLoop)
        self._place = (runner.seed, get_rank())
        self._streams = None
        if dataloader.num_workers > 0:
            self._streams = streams = _WorkerStreams(
                self._place,
                runner.iter,
                len(dataloader) if epoch_based else None,
                dataloader.num_workers,
            )
            dataloader.worker_init_fn = _SeededStart(dataloader.worker_init_fn, streams)
            dataloader.collate_fn = _SeededBatch(dataloader.collate_fn, streams)
            if not epoch_based:
                _restart_reading(loop, dataloader)
        _seed(*self._place, runner.iter, _LOADING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin the stream of this iteration."""
        _seed(*self._place, runner.iter, _STEP)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Begin the stream of the next iteration's data."""
        # The loop counts this iteration only after its hooks.
        _seed(*self._place, runner.iter + 1, _LOADING)
        if self._streams is not None:
            # For workers that are started anew; those that persist have streams of their own.
            self._streams.first = runner.iter + 1

    def after_val(self, runner: Runner) -> None:
        """Go on as if there had been no validation, which a resumed run does not repeat."""
        if hasattr(self, "_place"):
            _seed(*self._place, runner.iter, _LOADING)


def _seed(seed: int, rank: int, iteration: int, stream: int) -> None:
    state = np.random.SeedSequence((seed, rank, iteration, stream)).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    torch.manual_seed(int(state[2]))


def _restart_reading(loop, dataloader: DataLoader) -> None:
    """Forget workers that have begun to read: OpenMMLab's mmengine starts them with the loop."""
    iterator = loop.dataloader_iterator
    if getattr(iterator, "_iterator", None) is not None:
        dataloader._iterator = None  # persistent workers would be taken over otherwise
        loop.dataloader_iterator = type(iterator)(dataloader)


class _WorkerStreams:
    """Which iteration the batches of a worker belong to.

    PyTorch deals the batches of an epoch to the workers in turn, beginning with the first worker.

    Args:
        place (tuple[int, int]): Seed and rank.
        first (int): Iteration of the first batch, which may lie within an epoch.
        epoch_length (int | None): Batches of an epoch; None if there is no end.
        num_workers (int): Number of workers.
    """

    def __init__(
        self, place: tuple[int, int], first: int, epoch_length: int | None, num_workers: int
    ) -> None:
        self.place = place
        self.first = first
        self.epoch_length = epoch_length
        self.num_workers = num_workers

    def iteration(self, worker: int, count: int) -> int:
        """The iteration that the batch number ``count``, from 0, of a worker belongs to."""
        if self.epoch_length is None:
            return self.first + count * self.num_workers + worker
        rest = self.epoch_length - self.first % self.epoch_length
        of_rest = self._dealt(rest, worker)
        if count < of_rest:
            return self.first + count * self.num_workers + worker
        epoch, count = divmod(count - of_rest, max(self._dealt(self.epoch_length, worker), 1))
        before = rest + epoch * self.epoch_length
        return self.first + before + count * self.num_workers + worker

    def _dealt(self, num_batches: int, worker: int) -> int:
        """How many of the next batches of an epoch a worker gets."""
        return max(-(-(num_batches - worker) // self.num_workers), 0)

    def begin(self, worker: int, count: int) -> None:
        """Begin the stream of a batch."""
        _seed(*self.place, self.iteration(worker, count), _LOADING)


class _SeededStart:
    """A ``worker_init_fn`` that begins the stream of the first batch."""

    def __init__(self, inner: Callable | None, streams: _WorkerStreams) -> None:
        self.inner = inner
        self.streams = streams

    def __call__(self, worker: int) -> None:
        if self.inner is not None:
            self.inner(worker)
        self.streams.begin(worker, 0)


class _SeededBatch:
    """A ``collate_fn`` that begins the stream of the next batch when it has finished one."""

    def __init__(self, inner: Callable, streams: _WorkerStreams) -> None:
        self.inner = inner
        self.streams = streams
        self.count = 0

    def __call__(self, samples: list) -> Any:
        batch = self.inner(samples)
        worker = get_worker_info()
        if worker is not None:
            self.count += 1
            self.streams.begin(worker.id, self.count)
        return batch
