"""Checkpoints that are whole, finite and complete, whenever a run is broken off."""

import fnmatch
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write, check_writable

_HINT = (
    "the checkpoints before it are whole, so go on from them with --resume after you move the work "
    "directory"
)


class AtomicLocalBackend(LocalBackend):
    """mmengine's backend for local files, whose files appear whole or not at all; a UserError if
    the system refuses to write, e.g. on a full disk."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes beside ``filepath`` and put them in its place when they are on the disk."""
        with atomic_write(filepath, _HINT) as unfinished, open(unfinished, "wb") as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())


register_backend("atomic_local", AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that may be killed at any moment.

    - Checkpoints and the file ``last_checkpoint`` are written whole or not at all.
    - An outdated checkpoint is removed after the one that replaces it is on the disk, not before.
    - A model with a parameter that is not finite is not saved.
    - A checkpoint is written before each validation and again after it, so that a kill costs at
      most the validation, which ``InterruptionHook`` then repeats.

    Arguments are those of ``CheckpointHook``. ``backend_args`` and ``out_dir`` may name another
    storage, such as S3, whose own guarantees then count.
    """

    def __init__(self, **kwargs) -> None:
        # Substrings of metrics of which more is better, so that save_best needs no rule.
        kwargs.setdefault("greater_keys", ["acc", "top", "AP", "AR", "auc", "precision", "mIoU"])
        super().__init__(**kwargs)
        is_local = self.out_dir is None or "://" not in str(self.out_dir)
        if self.backend_args is None and self.file_client_args is None and is_local:
            self.backend_args = dict(backend="atomic_local")
        #: Iteration of the last checkpoint written or resumed from.
        self.written_iter: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Take up the records of a resumed run; clear away what a killed one left unfinished.

        A warning names checkpoints of an earlier training, which a new one would overwrite.

        Raises:
            UserError: If ``save_best`` names a metric that the evaluator does not give, or the
                system refuses to write to the folder of the checkpoints.
        """
        if runner.val_loop is not None:
            check_save_best(self.save_best or [], runner.val_evaluator.metrics)
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            check_writable(self._path(0), "choose another 'out_dir' of default_hooks.checkpoint")
        if runner.iter > 0:
            self.written_iter = runner.iter
            self.last_ckpt = runner.message_hub.runtime_info.get("last_ckpt")
        else:
            runner.message_hub.update_info("iter_validated", 0)
            _warn_of_earlier_checkpoints(runner)
        for folder in {str(self.out_dir), runner.work_dir} if is_main_process() else ():
            for path in (*Path(folder).glob(".*.pth.*.tmp"), *Path(folder).glob(".last_*.tmp")):
                with suppress(OSError):
                    path.unlink()

    def before_val(self, runner: Runner) -> None:
        """Write a checkpoint, unless there is one of this iteration."""
        if self._is_training() and self.interval > 0 and self.written_iter != runner.iter:
            self._write_between_iterations(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Keep the best checkpoint, and note in the last one that it is validated."""
        if not self._is_training():
            super().after_val_epoch(runner, metrics)
            return
        runner.message_hub.update_info("iter_validated", runner.iter)
        saved_for = self.written_iter
        self.written_iter = None
        super().after_val_epoch(runner, metrics or {})
        if self.written_iter is None and saved_for == runner.iter:
            self._write_between_iterations(runner)
        if self.written_iter is None:
            self.written_iter = saved_for

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Raise a UserError if a parameter holds NaN or infinity."""
        for name, _ in bare_model(runner).named_parameters():
            weights = checkpoint["state_dict"].get(name)
            if weights is not None and not torch.isfinite(weights).all():
                raise UserError(
                    f"parameter {name} holds NaN or infinity after iteration "
                    f"{checkpoint['meta']['iter']}, which is not saved; go on from the last "
                    f"checkpoint in {runner.work_dir} with --resume and a lower learning rate."
                )

    def save_now(self, runner: Runner) -> str:
        """Save a checkpoint in ``after_train_iter``, whatever the interval, and return its path.

        In an epoch-based run it is ``iter_{}.pth``, removed when the epoch has one of its own.
        """
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        if not self.by_epoch:
            self._save_checkpoint_with_step(runner, meta["iter"], meta)
            return self.last_ckpt
        path = self.file_backend.join_path(self.out_dir, f"iter_{meta['iter']}.pth")
        runner.message_hub.update_info("checkpoint_within_epoch", path)
        self._write(runner, path, meta)
        return path

    def _is_training(self) -> bool:
        return hasattr(self, "file_backend")

    def _write_between_iterations(self, runner: Runner) -> None:
        """The loop has counted its iteration and epoch already."""
        step = runner.epoch if self.by_epoch else runner.iter
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # mmengine's removes before it writes, and writes last_checkpoint in place.
        outdated = []
        if self.max_keep_ckpts > 0:
            if step not in self.keep_ckpt_ids:
                if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                    outdated.append(self._path(self.keep_ckpt_ids.popleft()))
                self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        if runner.message_hub.runtime_info.get("checkpoint_within_epoch"):
            outdated.append(runner.message_hub.get_info("checkpoint_within_epoch"))
            runner.message_hub.update_info("checkpoint_within_epoch", None)
        self._write(runner, self._path(step), meta)
        for path in outdated:
            self._remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        unknown = [key for key in self.key_indicators if key not in (*metrics, "auto")]
        if unknown:
            raise UserError(
                f"default_hooks.checkpoint.save_best: val_evaluator has no metric "
                f"{unknown[0]!r}; choose one of {', '.join(metrics)}."
            )
        # mmengine's removes the old one before it writes; here it does not know of it.
        if len(self.key_indicators) == 1:
            old, self.best_ckpt_path = self.best_ckpt_path, None
            super()._save_best_checkpoint(runner, metrics)
            self.best_ckpt_path = self._better(old, self.best_ckpt_path)
            return
        old = self.best_ckpt_path_dict
        self.best_ckpt_path_dict = dict.fromkeys(self.key_indicators)
        super()._save_best_checkpoint(runner, metrics)
        for key, new in self.best_ckpt_path_dict.items():
            self.best_ckpt_path_dict[key] = self._better(old[key], new)

    def _better(self, old: str | None, new: str | None) -> str | None:
        """Return the best checkpoint's path; ``new`` is None if it stays."""
        if None not in (old, new) and old != new:
            self._remove(old)
        return new or old

    def _remove(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))

    def _write(self, runner: Runner, path: str, meta: dict) -> None:
        self.last_ckpt = path
        runner.message_hub.update_info("last_ckpt", path)
        runner.save_checkpoint(
            self.out_dir,
            os.path.basename(path),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self.written_iter = meta["iter"]
        if is_main_process():
            with atomic_write(Path(runner.work_dir) / "last_checkpoint", _HINT) as unfinished:
                unfinished.write_text(path)


def _warn_of_earlier_checkpoints(runner: Runner) -> None:
    earlier = sorted(map(str, Path(runner.work_dir).glob("*.pth"))) if is_main_process() else []
    if earlier:
        runner.logger.warning(
            f"{runner.work_dir}: holds {len(earlier)} checkpoints of an earlier training, as "
            f"{os.path.basename(earlier[-1])}, which this one may overwrite; go on from the last "
            "one by --resume, or give another --work-dir."
        )


def check_save_best(names: str | Sequence[str], metrics: Sequence[Any]) -> None:
    """Check the metrics that ``save_best`` names.

    Args:
        names (str | Sequence[str]): Names of metrics, with their prefix, or ``"auto"``.
        metrics (Sequence): The metrics of ``val_evaluator``. Those with ``metric_names()`` say what
            they give.

    Raises:
        UserError: If none of them gives a name, or there are none.
    """
    key = "default_hooks.checkpoint.save_best"
    if names and not metrics:
        raise UserError(f"{key}: there is no val_evaluator; add one, or remove 'save_best'.")
    # Metrics of other packages do not say what they return, but with which prefix.
    known = []
    for metric in metrics:
        of_metric = metric.metric_names() if hasattr(metric, "metric_names") else ["*"]
        prefix = f"{metric.prefix}/" if getattr(metric, "prefix", None) else ""
        known += [prefix + name for name in of_metric]
    for name in [names] if isinstance(names, str) else names:
        if name != "auto" and not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
            raise UserError(
                f"{key}: val_evaluator has no metric {name!r}; choose one of {', '.join(known)}."
            )
