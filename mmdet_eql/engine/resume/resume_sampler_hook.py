"""A resumed run draws what an unbroken one would have drawn."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Sampler

from mmdet_eql.utils.errors import UserError


@HOOKS.register_module()
class ResumeSamplerHook(Hook):
    """Give the sampler of a resumed run its seed back, and skip grouped batches without reading.

    mmengine builds the data loader before it reads the checkpoint. Where the config names no seed,
    a resumed run would therefore draw in an order of its own; here its sampler gets the seed that
    the checkpoint has. What an iteration-based run has seen already, mmengine then skips: the
    maintained fork at once, where there is no batch sampler; with a batch sampler that has
    ``skip`` (``ResumableAspectRatioBatchSampler``) this hook does; else by reading it again.
    OpenMMLab's own mmengine always reads it again, and begins to read as soon as the loop is built;
    there this hook skips, for every endless sampler. An epoch-based run that is resumed within an
    epoch goes on with the rest of that epoch, whatever its samplers; mmengine would begin the epoch
    again.

    Raises:
        UserError: If the sampler is endless and the loop waits for the end of an epoch.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Put the sampler where the run stopped."""
        loop = runner.train_loop
        sampler, batch_sampler = _samplers(loop.dataloader)
        is_endless = getattr(sampler, "infinite", isinstance(sampler, InfiniteSampler))
        epoch_based = isinstance(loop, EpochBasedTrainLoop)
        if is_endless and epoch_based:
            raise UserError(
                f"train_dataloader.sampler: {type(sampler).__name__} never ends an epoch, which "
                "train_cfg.type='EpochBasedTrainLoop' waits for; "
                + (
                    "remove 'infinite' from the sampler, "
                    if hasattr(sampler, "infinite")
                    else "use a sampler such as 'DefaultSampler', "
                )
                + "or train with 'IterBasedTrainLoop'."
            )
        reads_again = not epoch_based and not hasattr(loop, "fast_forward_on_resume")
        if runner.iter == 0 and not reads_again:
            return
        drawn_anew = runner.iter > 0 and not _has_rank_seeds(runner)
        if drawn_anew and getattr(sampler, "seed", runner.seed) != runner.seed:
            sampler.seed = runner.seed
            if isinstance(sampler, InfiniteSampler):
                sampler.indices = sampler._indices_of_rank()
            if not epoch_based:
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        if epoch_based:
            begun = runner.iter - runner.epoch * len(loop.dataloader)
            if begun > 0:
                loop.dataloader = _without_first(loop.dataloader, begun)
        elif reads_again and is_endless:
            if isinstance(sampler, InfiniteSampler):
                sampler.indices = sampler._indices_of_rank()  # workers may have taken the first
            loop.dataloader = _without_first(loop.dataloader, runner.iter)
            loop.dataloader_iterator = _PassedOver(loop.dataloader, runner.iter)
        elif (
            is_endless
            and hasattr(batch_sampler, "skip")
            and getattr(loop, "fast_forward_on_resume", True) is False
        ):
            batch_sampler.skip(runner.iter)
            loop.fast_forward_on_resume = True


def _samplers(dataloader: DataLoader) -> tuple[Sampler, Sampler | None]:
    """The sampler of single images, and the batch sampler that the config has put around it."""
    if dataloader.batch_size is not None:
        return dataloader.sampler, None
    return dataloader.batch_sampler.sampler, dataloader.batch_sampler


def _without_first(dataloader: DataLoader, num_batches: int) -> DataLoader:
    """The same data loader, whose first epoch lacks its first batches."""
    options = (
        *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator"),
        *("multiprocessing_context", "prefetch_factor", "persistent_workers"),
    )
    return DataLoader(
        dataloader.dataset,
        batch_sampler=_RestOfEpoch(dataloader.batch_sampler, num_batches),
        **{name: getattr(dataloader, name) for name in options},
    )


class _RestOfEpoch(Sampler):
    """Batches as another sampler forms them, of which the first are left out once."""

    def __init__(self, batch_sampler: Sampler, num_batches: int) -> None:
        self.batch_sampler = batch_sampler
        self.num_batches = num_batches
        # Where mmengine looks for them.
        self.sampler = batch_sampler.sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)

    def __iter__(self) -> Iterator[list[int]]:
        # Not before the first batch is asked for: DataLoader makes iterators that it does not use.
        skipped, self.num_batches = self.num_batches, 0
        yield from islice(iter(self.batch_sampler), skipped, None)

    def __len__(self) -> int:
        return len(self.batch_sampler)


class _PassedOver:
    """The batches of an endless data loader, after some that nobody looks at."""

    def __init__(self, dataloader: DataLoader, num_passed: int) -> None:
        self.dataloader = dataloader
        self.num_passed = num_passed
        self._batches: Iterator | None = None

    def __next__(self) -> Any:
        if self.num_passed > 0:
            self.num_passed -= 1
            return None
        if self._batches is None:
            self._batches = iter(self.dataloader)
        return next(self._batches)


def _has_rank_seeds(runner: Runner) -> bool:
    """Whether samplers draw their seed themselves, since ``runner.seed`` differs by rank."""
    return bool(runner._randomness_cfg.get("diff_rank_seed", False))
