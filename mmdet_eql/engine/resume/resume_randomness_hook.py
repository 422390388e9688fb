"""A resumed run draws what an unbroken one would have drawn.

A checkpoint cannot hold the random states of worker processes, which read ahead. Here each
iteration has random streams of its own, which follow from the seed, the rank and the iteration.
"""

import functools
import json
import random
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Dataset, Sampler

from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.differences import first_difference
from mmdet_eql.utils.errors import UserError

#: Streams of an iteration: its data, and what the model does with it.
_LOADING, _STEP = 0, 1
#: Arguments of ``DataLoader`` that are attributes of the same name.
_OPTIONS = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator"),
    *("multiprocessing_context", "prefetch_factor", "persistent_workers"),
)


@HOOKS.register_module()
class ResumeRandomnessHook(Hook):
    """Go on with the images, augmentations and random numbers of the run that is resumed.

    Batches that were seen are skipped without reading them, also within an epoch. Python, NumPy and
    PyTorch are seeded for each batch that is read, in the process that reads it, and for each step.
    On the same kind of device and number of ranks, the weights are then equal as far as the
    operators are deterministic. Iteration-based loops need a sampler without end. A UserError if
    the resumed run had batches of another size, another number of training images or categories
    that occur in them otherwise, or a node lacks its checkpoint; a warning if the config has other
    schedules than those of the checkpoint, which stay in force, or another model, sampler or
    ``optim_wrapper`` (mixed precision, accumulation).
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Skip what was seen, and number the batches that are read from now on."""
        loop, dataloader = runner.train_loop, runner.train_dataloader
        self._place = (runner.seed, get_rank())
        if dataloader.batch_sampler is None:  # the dataset decides what comes next
            return
        _compare_with_resumed(runner)
        batches = _NumberedBatches(dataloader.batch_sampler)
        if isinstance(loop, EpochBasedTrainLoop):
            seen = iterations_of_epoch(runner)
            batches.number = runner.iter - seen
            batches.skip(seen)
        dataset = dataloader.dataset
        # PyTorch's name for a method that reads a whole batch.
        dataset.__getitems__ = functools.partial(_read_seeded, dataset, self._place)
        options = {name: getattr(dataloader, name) for name in _OPTIONS}
        loop.dataloader = DataLoader(dataset, batch_sampler=batches, **options)
        if not isinstance(loop, EpochBasedTrainLoop):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
            # By which mmengine skips ahead; its own finds no sampler that it knows.
            loop.dataloader_iterator.skip_iter = batches.skip

    def before_train_epoch(self, runner: Runner) -> None:
        """Note in the checkpoints where the epoch began: epochs may differ in length."""
        began = runner.message_hub.runtime_info.get("epoch_began")
        if began is None or began[0] != runner.epoch:
            runner.message_hub.update_info("epoch_began", [runner.epoch, runner.iter])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Begin the stream of this step."""
        _seed(*self._place, runner.iter, _STEP)


def iterations_of_epoch(runner: Runner) -> int:
    """Return how many iterations of its epoch a resumed run has done; 0 between two epochs."""
    epoch, iteration = runner.message_hub.runtime_info.get("epoch_began", (None, 0))
    return runner.iter - iteration if epoch == runner.epoch else 0


def _compare_with_resumed(runner: Runner) -> None:
    iterations = sorted({*all_gather_object(runner.iter)})
    if len(iterations) > 1:
        raise UserError(
            f"{runner.work_dir}: some processes resume after iteration {iterations[-1]}, others "
            f"after {iterations[0]}; copy the checkpoint to each node, or share the folder."
        )
    loader = runner.train_dataloader
    size = getattr(loader.batch_sampler, "batch_size", None)
    wrapper = dict(runner.cfg.get("optim_wrapper") or {})
    optimizer = wrapper.pop("optimizer", None)
    now = {
        "train_dataloader.batch_size x ranks": size and size * get_world_size(),
        "the number of images of train_dataloader.dataset": len(loader.dataset),
        "the checksum of the categories of train_dataloader.dataset and their counts": _checksum(
            loader.dataset
        ),
        "param_scheduler": _as_text(runner.cfg.get("param_scheduler")),
        "optim_wrapper.optimizer": _as_text(optimizer),
        "model": _as_text(runner.cfg.get("model")),
        "train_dataloader.sampler": _as_text(runner.cfg.train_dataloader.get("sampler")),
        "optim_wrapper": _as_text(wrapper),
    }
    before = runner.message_hub.runtime_info.get("trained_with", {}) if runner.iter > 0 else {}
    for key, value in now.items():
        if None in (value, before.get(key)) or value == before[key]:
            continue
        if key in ("model", "train_dataloader.sampler", "optim_wrapper"):
            difference = first_difference(json.loads(before[key]), json.loads(value), key)
            if difference is not None:
                runner.logger.warning(
                    f"{difference[0]} is {difference[2]!r:.100}, but was {difference[1]!r:.100} in "
                    "the run of the checkpoint, which goes on with what the config says now; to "
                    "train something else, give another --work-dir."
                )
        elif isinstance(value, str):
            runner.logger.warning(
                f"{key} of the config is not that of the resumed run, whose state stays in force; "
                "to change it, start anew from the weights by load_from without --resume."
            )
            now[key] = before[key]
        else:
            raise UserError(
                f"{key} is {value}, but was {before[key]} in the run of the checkpoint; give the "
                "same, or start anew from its weights by load_from without --resume."
            )
    runner.message_hub.update_info("trained_with", now)


def _checksum(dataset: Dataset) -> int | None:
    try:
        counts = class_frequency_of(dataset)
    except UserError:  # it does not count them, or has several sets of categories
        return None
    content = [counts.class_names, counts.image_count.tolist(), counts.instance_count.tolist()]
    return zlib.crc32(json.dumps(content).encode())


def _as_text(setting: object) -> str:
    return json.dumps(setting, sort_keys=True, default=str)


def _seed(seed: int, rank: int, iteration: int, stream: int) -> None:
    state = np.random.SeedSequence((seed, rank, iteration, stream)).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    # Without CUDA, torch.manual_seed notes each call and its stack trace for the time when there
    # is: a millisecond, and never forgotten.
    torch.default_generator.manual_seed(int(state[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(state[2]))


class _NumberedBatches(Sampler):
    """The batches of another sampler, each with its iteration, without those that are skipped."""

    def __init__(self, batch_sampler: Sampler) -> None:
        self.batch_sampler = batch_sampler
        self.number = 0
        self._skipped = 0
        # Where mmengine looks for them.
        self.sampler = batch_sampler.sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)

    def skip(self, num_batches: int) -> None:
        """Leave out the next batches, once."""
        self.number += num_batches
        self._skipped += num_batches

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        # Not before the first batch is asked for: DataLoader makes iterators that it does not use.
        skipped, self._skipped = self._skipped, 0
        for indices in islice(self.batch_sampler, skipped, None):
            self.number += 1
            yield self.number - 1, indices

    def __len__(self) -> int:
        return len(self.batch_sampler)


def _read_seeded(dataset: Dataset, place: tuple[int, int], batch: tuple[int, list[int]]) -> list:
    """Read a batch from the stream of its iteration."""
    number, indices = batch
    _seed(*place, number, _LOADING)
    read_all = getattr(type(dataset), "__getitems__", None)
    if read_all is not None:
        return read_all(dataset, indices)
    return [dataset[index] for index in indices]
