"""Whether the parts of a config can be built, asked before a training is started with it."""

import os.path as osp
from collections.abc import Iterator

from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from mmdet_eql.utils.errors import UserError


def check_config(cfg: Config) -> None:
    """Build the model, the custom hooks, and the datasets without their annotations.

    Args:
        cfg (Config): The merged config; it is left as it is.

    Raises:
        UserError: If a part is missing or cannot be built, or an annotation file does not exist.
    """
    cfg = Config(cfg.to_dict())
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    missing = [key for key in ("model", "train_dataloader", "train_cfg") if not cfg.get(key)]
    if missing:
        raise UserError(f"{missing[0]} is missing in the config")
    _build(MODELS, cfg.model, "model")
    for index, hook in enumerate(cfg.get("custom_hooks") or []):
        _build(HOOKS, hook, f"custom_hooks.{index}")
    for loader in ("train_dataloader", "val_dataloader"):
        if cfg.get(loader):
            for key, dataset in _innermost(cfg[loader].dataset, f"{loader}.dataset"):
                _check_dataset(dataset, key)
    evaluator = cfg.get("val_evaluator") or []
    for metric in evaluator if isinstance(evaluator, list) else [evaluator]:
        _build(METRICS, metric, "val_evaluator")


def _build(registry, part: dict, key: str) -> object:
    try:
        return registry.build(part)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor raises
        # A KeyError is shown in quotes; mmengine appends where its documentation is.
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        reason = " ".join(text.split()).partition(". Please check")[0]
        raise UserError(f"{key} cannot be built ({type(error).__name__}: {reason})") from None


def _innermost(dataset: dict, key: str) -> Iterator[tuple[str, dict]]:
    """The datasets within wrappers, with their keys."""
    if isinstance(dataset.get("dataset"), dict):
        yield from _innermost(dataset["dataset"], f"{key}.dataset")
    elif isinstance(dataset.get("datasets"), (list, tuple)):
        for index, part in enumerate(dataset["datasets"]):
            yield from _innermost(part, f"{key}.datasets.{index}")
    else:
        yield key, dataset


def _check_dataset(dataset: dict, key: str) -> None:
    kind = DATASETS.get(dataset.get("type")) if isinstance(dataset.get("type"), str) else None
    lazy = isinstance(kind, type) and issubclass(kind, BaseDataset)
    if not lazy:
        # Others may read all of their data when they are built.
        return
    built = _build(DATASETS, dict(dataset, lazy_init=True), key)
    path = built.ann_file
    if path and "://" not in path and not osp.exists(path):
        raise UserError(f"{key}.ann_file: {path} does not exist")
