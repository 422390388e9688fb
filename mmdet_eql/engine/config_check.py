"""Checks of a config before anything is trained, for the launchers and for sweeps."""

import functools
import inspect
import os.path as osp
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmdet.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
)
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.optim import build_optim_wrapper
from mmengine.registry import Registry, init_default_scope
from mmengine.utils import import_modules_from_strings

from mmdet_eql.engine.num_classes import set_num_classes
from mmdet_eql.engine.resume.checkpoint_hook import check_save_best
from mmdet_eql.losses import connect_losses
from mmdet_eql.utils.errors import UserError

#: Steps of a pipeline that move what is in an image, and leave no trace for a test.
_MOVING = (
    *("RandomFlip", "RandomCrop", "RandomCenterCropPad", "MinIoURandomCrop", "RandomAffine"),
    *("RandomShift", "Expand", "Mosaic", "MixUp"),
)
#: Where the types of nested parts are looked up, after the registry of the part that they are in.
_NESTED = (MODELS, TASK_UTILS, TRANSFORMS, DATASETS, OPTIMIZERS)


def check_config(cfg: Config, splits: Sequence[str] = ("train", "val")) -> None:
    """Build the parts of a config that need no data, and look for the files that it names.

    The model, hooks, schedules, metrics and datasets (without reading their annotations) are built
    and dropped. Of samplers and loops, which cannot be built alone, the arguments are checked.

    Args:
        cfg (Config): The merged config; it is not changed.
        splits (Sequence[str]): Which of ``"train"``, ``"val"`` and ``"test"`` will be run.

    Raises:
        UserError: With the dotted key, if a part is missing or cannot be built, a loss does not
            work in its head, a file does not exist, the images of a test would be moved or left
            out, or the loop does not fit the sampler or the schedules.
    """
    cfg = Config(cfg.to_dict())
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    for key in ("model", f"{splits[0]}_dataloader", f"{splits[0]}_cfg"):
        if not _dict(cfg, key):
            raise UserError(f"{key} is missing in the config; add it, or inherit it from _base_.")
    for split in splits:
        loader = _dict(cfg, f"{split}_dataloader")
        if split != "train" and loader.get("drop_last"):
            raise UserError(
                f"{split}_dataloader.drop_last is True, and the images of the last batch would not "
                "be evaluated; set it to False."
            )
        dataset = loader.get("dataset")
        if isinstance(dataset, dict):
            _check_dataset(dataset, f"{split}_dataloader.dataset")
            if split != "train":
                _check_test_pipeline(dataset, f"{split}_dataloader.dataset")
    set_num_classes(cfg, splits)
    trains = "train" in splits
    try:
        # Without random weights, which take seconds to draw. PyTorch imports for a second what that
        # needs, but for an optimizer, too.
        with torch.device("meta" if trains else "cpu"):
            optimizer = _build_model(cfg, trains)
    except Exception:  # also of a constructor that needs values of tensors
        optimizer = _build_model(cfg, trains)
    default = {f"default_hooks.{name}": hook for name, hook in _dict(cfg, "default_hooks").items()}
    for key, hook in {**default, **_items(cfg, "custom_hooks")}.items():
        _check_arguments(HOOKS, hook, key)
        # Others, as the one that draws, may need a runner's visualizer.
        if getattr(_class_of(HOOKS, hook), "__module__", "").startswith("mmdet_eql."):
            _build(HOOKS, hook, key)
    for split in splits:
        loader = _dict(cfg, f"{split}_dataloader")
        for name in ("sampler", "batch_sampler"):
            _check_arguments(DATA_SAMPLERS, loader.get(name), f"{split}_dataloader.{name}")
        metrics = []
        for key, metric in _items(cfg, f"{split}_evaluator").items():
            _check_file(metric.get("ann_file"), f"{key}.ann_file")
            metrics.append(_build(METRICS, metric, key))
        if split == "val":
            checkpoint = _dict(_dict(cfg, "default_hooks"), "checkpoint")
            check_save_best(checkpoint.get("save_best") or [], metrics)
    _check_file(cfg.get("load_from"), "load_from")
    if trains:
        _check_training(cfg, optimizer)


def _build_model(cfg: Config, with_optimizer: bool) -> Any:
    """Build the model and, if the config names a single optimizer, this, which is returned."""
    model = _build(MODELS, cfg.model, "model")
    connect_losses(model)
    wrapper = _dict(cfg, "optim_wrapper")
    if not with_optimizer or not isinstance(wrapper.get("optimizer"), dict):
        return None
    # A plain wrapper: mixed precision may be for another machine.
    keys = ("optimizer", "paramwise_cfg", "constructor")
    plain = ConfigDict({key: wrapper[key] for key in keys if key in wrapper})
    own = {key: value for key, value in wrapper.items() if key not in keys}
    _check_arguments(OPTIM_WRAPPERS, {"type": "OptimWrapper", **own}, "optim_wrapper")
    return _try(lambda: build_optim_wrapper(model, plain), plain, "optim_wrapper")


def _check_dataset(dataset: dict, key: str) -> None:
    for name in ("dataset", "datasets"):  # of a wrapper
        inner = dataset.get(name)
        if isinstance(inner, dict):
            _check_dataset(inner, f"{key}.{name}")
        for index, part in enumerate(inner if isinstance(inner, (list, tuple)) else ()):
            _check_dataset(part, f"{key}.{name}.{index}")
    if not _is_subclass(_class_of(DATASETS, dataset), BaseDataset):
        # Others may read all of their data when they are built.
        _check_arguments(DATASETS, dataset, key)
        return
    built = _build(DATASETS, dict(dataset, lazy_init=True), key)
    _check_file(built.ann_file, f"{key}.ann_file")


def _check_test_pipeline(dataset: dict, key: str) -> None:
    """Raise a UserError if a step moves objects: boxes would be compared where they are not."""
    for index, step in enumerate(dataset.get("pipeline") or ()):
        kind = step.get("type") if isinstance(step, dict) else None
        name = kind.rpartition(".")[2] if isinstance(kind, str) else ""
        always = None if name == "RandomFlip" else 1.0
        if name in _MOVING and step.get("prob", always) not in (None, 0):
            raise UserError(
                f"{key}.pipeline.{index}: {name} moves what is in an image, and detections are not "
                "moved back; remove it, or use --tta for flipped images."
            )


def _check_training(cfg: Config, optimizer: Any) -> None:
    loop = cfg.train_cfg
    _check_arguments(LOOPS, loop, "train_cfg")
    for name in ("max_iters", "max_epochs", "val_interval"):
        if name in loop and not (isinstance(loop[name], int) and loop[name] > 0):
            raise UserError(
                f"train_cfg (type {loop.get('type')!r}): {name} is {loop[name]!r}; give an integer "
                "of at least 1."
            )
    for key, part in typed_parts(cfg.model, "model"):
        if part["type"] == "Pretrained":
            _check_file(part.get("checkpoint"), f"{key}.checkpoint")
    by_epoch = loop.get("by_epoch", "max_epochs" in loop)
    checkpoint = _dict(_dict(cfg, "default_hooks"), "checkpoint")
    if not by_epoch and checkpoint.get("by_epoch", True) and checkpoint.get("interval", -1) > 0:
        raise UserError(
            "default_hooks.checkpoint: counts epochs, but train_cfg iterations, so that nothing "
            "would be saved before the end; set its by_epoch to False, and give its interval in "
            "iterations."
        )
    sampler = _dict(cfg.train_dataloader, "sampler")
    is_infinite = _is_subclass(_class_of(DATA_SAMPLERS, sampler), InfiniteSampler)
    if by_epoch and (is_infinite or sampler.get("infinite")):
        raise UserError(
            f"train_dataloader.sampler: {sampler['type']} never ends an epoch, which "
            "train_cfg.type='EpochBasedTrainLoop' waits for; remove 'infinite' from the sampler, "
            "use one such as 'DefaultSampler', or train with 'IterBasedTrainLoop'."
        )
    for key, schedule in _items(cfg, "param_scheduler").items():
        if optimizer is not None:
            defaults = dict(optimizer=optimizer, epoch_length=1)
            build = functools.partial(PARAM_SCHEDULERS.build, schedule, default_args=defaults)
            _try(build, schedule, key)
        if not by_epoch and schedule.get("by_epoch", True):
            raise UserError(
                f"{key}: counts epochs, but train_cfg iterations, so that the learning rate would "
                "never change; set its by_epoch to False, and give it in iterations."
            )


def _build(registry: Registry, part: Any, key: str) -> Any:
    return _try(lambda: registry.build(part), part, key, registry)


def _try(build: Callable[[], Any], part: Any, key: str, registry: Registry | None = None) -> Any:
    """Build a part; if that fails, name the innermost part that fails alike when built alone."""
    try:
        return build()
    except Exception as error:  # a constructor raises whatever it comes upon
        failure, reason = error, _reason(error)
    of_whole = key
    for inner_key, inner in typed_parts(part, key):
        places = [place for place in (registry, *_NESTED) if _class_of(place, inner) is not None]
        places.append(registry)
        if inner is not part and places[0] is not None:
            try:
                places[0].build(inner)
            except Exception as error:
                if _reason(error) == reason:
                    key, part = inner_key, inner
    kind = f" (type {part['type']!r})" if isinstance(part, dict) and "type" in part else ""
    if isinstance(failure, UserError):
        raise failure if key == of_whole else UserError(f"{key}{kind}: {failure}")
    raise UserError(f"{key}{kind} cannot be built ({reason}); correct its values.")


def _check_arguments(registry: Registry, part: Any, key: str) -> None:
    """Check the type of a part that cannot be built alone, and the names of its arguments."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return
    kind = _class_of(registry, part)
    if kind is None:
        raise UserError(
            f"{key}: {part['type']} is not in the {registry.scope}::{registry.name} registry; "
            "correct its type, or name the module that registers it in custom_imports."
        )
    parameters = inspect.signature(kind).parameters
    unknown = [name for name in part if name not in (*parameters, "type", "_scope_")]
    if unknown and all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
        raise UserError(
            f"{key} (type {part['type']!r}) has no argument {unknown[0]!r}; its arguments are "
            f"{', '.join(parameters)}."
        )


def _check_file(path: Any, key: str) -> None:
    if isinstance(path, str) and path and "://" not in path and not osp.exists(path):
        raise UserError(f"{key}: {path} does not exist; correct the path.")


def _reason(error: Exception) -> str:
    # A KeyError is shown in quotes; mmengine appends where its documentation is.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return f"{type(error).__name__}: {' '.join(text.split())}".partition(". Please check")[0]


def _class_of(registry: Registry | None, part: Any) -> Any:
    known = registry is not None and isinstance(part, dict) and isinstance(part.get("type"), str)
    return registry.get(part["type"]) if known else None


def _is_subclass(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def typed_parts(part: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Yield the dicts with a type in a part, by dotted key, each before those in it."""
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        yield key, part
    if isinstance(part, (list, tuple)):
        part = dict(enumerate(part))
    for name, inner in part.items() if isinstance(part, dict) else ():
        yield from typed_parts(inner, f"{key}.{name}")


def listed(value: Any) -> list[dict]:
    """Return the dicts of a key that holds one, a list of them or nothing."""
    return [value] if isinstance(value, dict) else list(value or [])


def _dict(cfg: Any, key: str) -> dict:
    value = cfg.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r}; give a dict.")
    return value


def _items(cfg: Any, key: str) -> dict[str, dict]:
    """The dicts of a key that holds a dict or a list of them."""
    value = cfg.get(key) or []
    items = {key: value}
    if isinstance(value, list):
        items = {f"{key}.{index}": item for index, item in enumerate(value)}
    for name, item in items.items():
        if not isinstance(item, dict):
            raise UserError(f"{name} is {item!r}; give a dict with 'type'.")
    return items
