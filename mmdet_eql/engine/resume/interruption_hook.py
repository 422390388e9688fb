"""Save before a run is stopped, and repeat a validation that was cut short."""

import bisect
import functools
import math
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdet_eql.engine.resume.checkpoint_hook import AtomicCheckpointHook
from mmdet_eql.engine.resume.resume_randomness_hook import iterations_of_epoch
from mmdet_eql.utils.errors import UserError

#: Exit status of a run that was stopped and has saved: EX_TEMPFAIL of sysexits.h, "try again".
STOPPED_AND_SAVED = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Save a checkpoint on SIGTERM or SIGUSR1, and exit with status 75.

    Slurm sends SIGTERM to a job that it preempts or whose time is up, and with
    ``--signal=USR1@120`` SIGUSR1 two minutes before. The run finishes its iteration (on several
    ranks, up to ``interval`` of them), saves and ends; ``--resume`` goes on from there. A second
    signal ends it at once. A validation that was broken off is repeated by the resumed run.

    A UserError if the checkpoint hook of the config is not ``AtomicCheckpointHook``.
    """

    # After all that changes the state in an iteration, and after the checkpoint hook.
    priority = "LOWEST"

    def __init__(self, interval: int = 10) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise UserError(f"InterruptionHook.interval is {interval!r}; give a number from 1 on.")
        self.interval = interval
        self._received = 0
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Keep the signals from ending the workers, and validate if the last run could not."""
        self._checkpoint_hook = next(
            (hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None
        )
        if self._checkpoint_hook is None:
            raise UserError(
                "InterruptionHook: needs default_hooks.checkpoint.type='AtomicCheckpointHook'."
            )
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            dataloader = loop.dataloader
            dataloader.worker_init_fn = functools.partial(
                _start_shielded, dataloader.worker_init_fn
            )
        self._listen()
        if _validation_is_due(runner):
            runner.logger.info(f"Validating after iteration {runner.iter}, which was cut short.")
            runner.val_loop.run()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and exit if a signal has come."""
        iteration = runner.iter + 1
        # Gradients that wait for the rest of their batch are in no checkpoint.
        accumulated = (runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
        if get_world_size() > 1:
            if iteration % math.lcm(self.interval, accumulated):
                return
            received = torch.tensor(self._received, device=get_device())
            all_reduce(received, "max")
            self._received = int(received)
        elif iteration % accumulated and iteration < runner.max_iters:
            return
        if self._received:
            self._exit(runner, f"saved {self._checkpoint_hook.save_now(runner)}")

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exit if a signal has come; the checkpoint from before the validation is there."""
        if self._received:
            self._exit(runner, "the validation will be done again")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Exit if a signal has come; the checkpoint has been written anew."""
        if self._received:
            self._exit(runner, "validated and saved")

    def after_train(self, runner: Runner) -> None:
        """Leave the signals to whom they belonged."""
        self._restore()

    def _listen(self) -> None:
        self._listener = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        self._restore()
        # Forked processes, such as those of a pool that a metric starts, inherit this handler, and
        # whoever started them ends them by the signal.
        if os.getpid() != self._listener:
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _exit(self, runner: Runner, what: str) -> None:
        name = signal.Signals(self._received).name
        runner.logger.warning(f"Told to stop by {name}: {what}; go on with --resume.")
        raise SystemExit(STOPPED_AND_SAVED)


def _validation_is_due(runner: Runner) -> bool:
    """Whether a validation is missing where a run is resumed, as far as its checkpoint says."""
    loop = runner.train_loop
    validated = runner.message_hub.runtime_info.get("iter_validated")
    if runner.val_loop is None or runner.iter == 0 or validated in (None, runner.iter):
        return False
    count, last = runner.iter, runner.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        if iterations_of_epoch(runner) > 0:
            return False
        count, last = runner.epoch, runner.max_epochs
    step = bisect.bisect(loop.dynamic_milestones, count + 1)
    interval = loop.dynamic_intervals[step - 1]
    return count >= loop.val_begin and (count % interval == 0 or count == last)


def _start_shielded(inner: Callable | None, worker: int) -> None:
    """A ``worker_init_fn`` after which a worker is ended by its parent alone.

    A scheduler signals all processes of a job. A worker that ends makes PyTorch raise an error in
    the training process, wherever it is, which then could not save.
    """
    if inner is not None:
        inner(worker)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Follow SIGTERM if the parent sent it, as PyTorch's own handler does."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
