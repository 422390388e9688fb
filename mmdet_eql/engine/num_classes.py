"""The number of classes of a config: ``num_classes``, at its top, for all heads."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader

from mmdet_eql.engine.checkpoint_fit import classes_of_checkpoint
from mmdet_eql.utils.errors import UserError

_HEADS = ("bbox_head", "mask_head")


def set_num_classes(cfg: Config, splits: Sequence[str]) -> None:
    """Have ``num_classes`` of a config count, wherever it is written.

    mmengine copies ``_base_.num_classes`` into a head when it reads the file of that head, so that
    a child config or ``--cfg-options`` that sets it afterwards changes no head. Where they differ,
    or the number is None, the classes of the training set decide, and in a test those of the
    checkpoint. Heads whose numbers agree with the top are left as they are.

    Args:
        cfg (Config): The config, which is changed.
        splits (Sequence[str]): Which of ``"train"``, ``"val"`` and ``"test"`` will be run.

    Raises:
        UserError: If the classes are needed and cannot be counted, or neither ``num_classes`` nor
            the heads have their number.
    """
    written = cfg.get("num_classes")
    if written is not None and (not isinstance(written, int) or written < 1):
        raise UserError(f"num_classes is {written!r}; give the number of classes, at least 1.")
    parts = [part for head in _heads(cfg.get("model")) for part in _counting(head)]
    numbers = {part["num_classes"] for part in parts}
    if not parts or (None not in numbers and (written is None or numbers == {written})):
        return
    classes, source = _classes_of_run(cfg, splits)
    number = written if classes is None else len(classes)
    if numbers == {number}:
        return
    if written not in (None, number):
        names = ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
        others = ", ".join(map(str, sorted(numbers - {None, written})))
        heads = f" and that of the heads {others}" if others else ""
        raise UserError(
            f"num_classes is {written}{heads}, but {source} has {number} categories ({names}); set "
            f"num_classes = {number}, or correct the annotation file or metainfo.classes."
        )
    for part in parts:
        if part["num_classes"] is None or (written is not None and classes is not None):
            part["num_classes"] = number


def _heads(model: Any, key: str = "") -> Iterator[dict]:
    """The heads of a model's config that tell categories apart."""
    for name, part in model.items() if isinstance(model, dict) else enumerate(model or ()):
        name = key if isinstance(name, int) else name  # cascades number their heads
        if isinstance(part, dict) and name in _HEADS and not part.get("class_agnostic"):
            yield part
        elif isinstance(part, (dict, list, tuple)):
            yield from _heads(part, name)


def _counting(head: dict) -> Iterator[dict]:
    """A head and the parts in it, as its loss, that have a ``num_classes``."""
    if "num_classes" in head:
        yield head
    for part in head.values():
        if isinstance(part, dict):
            yield from _counting(part)


def _classes_of_run(cfg: Config, splits: Sequence[str]) -> tuple[Sequence[str] | None, str]:
    """The classes that the model is trained with, and which file says so."""
    init_default_scope(cfg.get("default_scope", "mmdet"))
    split, checkpoint = splits[0], cfg.get("load_from")
    if split != "train" and checkpoint:
        classes = classes_of_checkpoint(CheckpointLoader.load_checkpoint(checkpoint, "cpu"))
        if classes is not None or cfg.get("num_classes") is not None:
            return classes, checkpoint
    key = f"{split}_dataloader"
    dataset = (cfg.get(key) or {}).get("dataset")
    if not isinstance(dataset, dict):
        return None, key
    try:
        built = DATASETS.build(copy.deepcopy(dataset))
    except UserError:
        raise
    except Exception as error:  # a constructor raises whatever it comes upon
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{key}.dataset cannot be built ({reason}); correct its values.") from None
    return built.metainfo.get("classes"), getattr(built, "ann_file", None) or f"{key}.dataset"
