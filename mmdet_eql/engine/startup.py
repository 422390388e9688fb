"""What a run says when it starts: a summary on the terminal, and all else in its log file."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdet_eql.engine.checkpoint import address_of, cache_path
from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.engine.config_check import listed, typed_parts
from mmdet_eql.frequency import GROUP_NAMES, UncountedDatasetError, class_frequency_of

_PACKAGE = Path(__file__).parents[1]


class QuietRunner(Runner):
    """mmengine's runner, which logs to its file alone while it starts, but for warnings and what
    this package logs.

    Python's warnings go to the file for good. :class:`SummaryHook` ends the quiet.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """See the base class; it warns of numbers of threads that it sets."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().setup_env(env_cfg)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """See the base class."""
        logger = super().build_logger(*args, **kwargs)
        python_warnings = logging.getLogger("py.warnings")
        python_warnings.propagate = False
        python_warnings.handlers = [
            h for h in logger.handlers if isinstance(h, logging.FileHandler)
        ]
        logging.captureWarnings(True)
        for handler in set(logger.handlers) - set(python_warnings.handlers):
            handler.addFilter(_is_wanted)
        return logger

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """See the base class; the images of a step are those of all iterations that it adds up."""
        if auto_scale_lr and "base_batch_size" in auto_scale_lr:
            base = auto_scale_lr["base_batch_size"] / _accumulated(self)
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
        super().scale_lr(optim_wrapper, auto_scale_lr)


def _accumulated(runner: Runner) -> int:
    """How many iterations make a step of the optimizer."""
    return (runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)


def _is_wanted(record: logging.LogRecord) -> bool:
    # mmengine warns of what is deprecated in its own calls.
    is_warning = record.levelno >= logging.WARNING and "deprecated" not in record.getMessage()
    return is_warning or Path(record.pathname).is_relative_to(_PACKAGE)


class SummaryHook(Hook):
    """Log what a run is about to do: data, classes, tail, model, schedule, where results go."""

    # After what is taken from data and checkpoint, before a validation that is overdue.
    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        """Say what is trained."""
        self._log(runner, training_summary(runner))

    def before_test(self, runner: Runner) -> None:
        """Say what is tested."""
        cfg = runner.cfg
        data = f"{_data(runner.test_dataloader.dataset)}; {_calls(cfg.test_evaluator)}"
        self._log(runner, [("data", data), *_model(runner), ("checkpoint", cfg.load_from)])

    def _log(self, runner: Runner, rows: Iterable[tuple[str, str]]) -> None:
        for handler in runner.logger.handlers:
            handler.removeFilter(_is_wanted)
        if is_main_process():
            lines = [runner.cfg.filename or "a config without a file"]
            rows = [(label, text) for label, text in (*rows, *_place(runner)) if text]
            lines += [f"  {label:<12}{text}" for label, text in rows]
            runner.logger.info("\n".join(lines))


def training_summary(runner: Runner) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line about a training."""
    cfg, loop, loader = runner.cfg, runner.train_loop, runner.train_dataloader
    report = Path(runner.work_dir, "data_report.txt")
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    yield "data", _data(loader.dataset) + f"; see {report.name} in the work_dir" * report.exists()
    yield from _classes(runner)
    yield from _model(runner)
    for key, part in typed_parts(cfg.model, "model"):
        if part["type"] == "Pretrained":
            url = address_of(part["checkpoint"])
            path = Path(cache_path(url))
            size = f" ({path.stat().st_size / 1e6:,.1f} MB)" if path.is_file() else ""
            yield "", f"{key}: {url}{size}"
    if cfg.get("load_from"):
        done = f", after iteration {runner.iter:,} (epoch {runner.epoch})" if runner.iter else ""
        if loop.epoch >= loop.max_epochs or (loop.iter >= loop.max_iters and not by_epoch):
            done += ": nothing is left to train"
        yield "resumes" if cfg.get("resume") else "load_from", f"{cfg.load_from}{done}"
    length = f"{loop.max_iters:,} iterations"
    if by_epoch:
        length = f"{loop.max_epochs} epochs of {len(loader):,} iterations"
    batch = getattr(loader.batch_sampler, "batch_size", None)
    accumulated = _accumulated(runner)
    added = f", {accumulated} of them to a step" if accumulated > 1 else ""
    yield "schedule", f"{length} of {batch} images x {get_world_size()} ranks{added}"
    scale = cfg.get("auto_scale_lr") or {}
    meant, step = scale.get("base_batch_size"), (batch or 0) * get_world_size() * accumulated
    if step and meant and not scale.get("enable") and step != meant:
        yield "", f"the learning rate is meant for {meant} images a step; --auto-scale-lr scales it"
    sampler = cfg.train_dataloader.get("sampler") or {}
    ends_before = by_epoch and sampler.get("num_epochs", 0) > loop.max_epochs
    yield "", _calls(sampler) + ": the training ends before" * ends_before
    yield "", f"{_calls(cfg.optim_wrapper.get('optimizer'))}"
    for schedule in listed(cfg.get("param_scheduler")):
        last = loop.max_epochs if schedule.get("by_epoch", True) else loop.max_iters
        steps, note = sorted(schedule.get("milestones", [])), ""
        end = schedule.get("end") or 0
        if steps and steps[-1] >= last:
            note = f": the training ends before {steps[-1]:,}"
        elif not steps and end > last:
            note = f": the training ends before {end:,}"
        elif steps and by_epoch and not schedule.get("by_epoch", True) and steps[-1] < len(loader):
            note = ": all within the first epoch, since it counts iterations"
        yield "", _calls(schedule) + note
    for group in getattr(getattr(runner.optim_wrapper, "optimizer", None), "param_groups", [])[:1]:
        full = group.get("initial_lr", group["lr"])
        yield "", f"learning rate {group['lr']:.4g} in the next iteration, {full:.4g} at its height"
    if runner.val_loop is not None:
        every = f"every {runner.val_interval:,} {'epochs' if by_epoch else 'iterations'}"
        yield "validation", f"{every} on {_data(runner.val_dataloader.dataset)}"
        yield "", _calls(cfg.val_evaluator)
    yield "checkpoints", _calls((cfg.get("default_hooks") or {}).get("checkpoint"))


def _data(dataset: Any) -> str:
    files, parts = [], [dataset]
    while parts:
        part = parts.pop(0)
        parts += getattr(part, "datasets", [part.dataset] if hasattr(part, "dataset") else [])
        files += [part.ann_file] if getattr(part, "ann_file", None) else []
    return f"{len(dataset):,} images of {' + '.join(files) or type(dataset).__name__}"


def _classes(runner: Runner) -> Iterator[tuple[str, str]]:
    try:
        frequency = class_frequency_of(runner.train_dataloader.dataset)
    except UncountedDatasetError:
        return
    groups = [f"{(frequency.group == group).sum():,} {name}" for group, name in GROUP_NAMES.items()]
    names = ", ".join(map(str, frequency.class_names[:5])) + ", ..." * (len(frequency) > 5)
    yield "classes", f"{len(frequency):,} ({names}): {', '.join(groups)}"
    written = runner.cfg.get("num_classes")
    if written not in (None, len(frequency)):
        yield "", f"num_classes = {written} is not used: the heads have the right one"
    counts, losses = torch.from_numpy(frequency.image_count), {}
    for name, module in bare_model(runner).named_modules():
        if hasattr(module, "tail_weights"):
            tail = module.tail_weights().cpu()
            share = (tail * counts).sum() / counts.sum().clamp(min=1)
            tail = f"tail of {(tail > 0).sum():,} classes with {share:.1%} of the labels"
            losses.setdefault(f"{type(module).__name__}: {tail}", name)
    for text, name in losses.items():
        yield "tail", f"{text} ({name})"


def _model(runner: Runner) -> Iterator[tuple[str, str]]:
    model, backbone = bare_model(runner), runner.cfg.model.get("backbone", {})
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    size, trained = (sum(n for n, t in sizes if t or every) / 1e6 for every in (True, False))
    parts = type(model).__name__, backbone.get("type"), backbone.get("depth")
    name = " ".join(str(part) for part in parts if part)
    yield "model", f"{name}; {size:.1f} M parameters, {trained:.1f} M of them trained"


def _place(runner: Runner) -> Iterator[tuple[str, str]]:
    device = torch.device(get_device())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    precision = (runner.cfg.get("optim_wrapper") or {}).get("type", "OptimWrapper")
    yield "device", f"{get_world_size()} x {name}, {precision}, seed {runner.seed}"
    yield "results", runner.work_dir
    yield "log", f"{runner.logger.log_file} (environment, config, warnings of packages)"


def _calls(value: Any) -> str:
    """Parts of a config as they would be called."""
    calls = []
    for part in listed(value):
        shown = {k: v for k, v in part.items() if k not in ("type", "_scope_") and v is not None}
        arguments = [f"{key}={value}" for key, value in shown.items()]
        calls.append(f"{part.get('type')}({', '.join(arguments)})")
    return " and ".join(calls)
