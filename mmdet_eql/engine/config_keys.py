"""Options that nothing reads: a config takes any key, and a misspelt one would have no effect."""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mmdet.registry import DATA_SAMPLERS, HOOKS, MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_eql.utils.errors import UserError

#: What is read at the top of a config.
TOP_LEVEL_KEYS = frozenset(
    (
        *inspect.signature(Runner.__init__).parameters,
        # Of mmengine, beside them.
        *("activation_checkpointing", "auto_scale_lr", "compile", "custom_imports"),
        *("efficient_conv_bn_eval", "find_unused_parameters", "model_wrapper_cfg", "runner_type"),
        "sync_bn",
        # Of test-time augmentation, and of this package.
        *("tta_model", "tta_pipeline"),
        *("decoupled", "features", "num_classes"),
    )
) - {"self", "cfg"}
#: Where types are looked up that take any argument, as samplers of RoIs.
_REGISTRIES = (HOOKS, TASK_UTILS, MODELS, DATA_SAMPLERS)
#: Names that are as similar are taken for the same one, misspelt: ``max_per_image``, but not
#: ``nms_pre`` beside ``nms``.
_SIMILAR = 0.8
#: Places that a message lists.
_SHOWN = 3


def check_options(cfg: Config, options: Iterable[str]) -> None:
    """Check options before they are merged into a config.

    Parts with a type are built, and most refuse unknown arguments then. Here it is about others:
    the top of the config, where variables have been copied to where they are used, and dicts that
    take any key: without a type, such as ``model.test_cfg.rcnn``, or of one that swallows unknown
    arguments, such as ``model.train_cfg.rcnn.sampler``.

    Args:
        cfg (Config): The config, without the options.
        options (Iterable[str]): Their dotted keys.

    Raises:
        UserError: If nothing reads a key at the top, or one that a dict without a type lacks is
            nearly one that it has.
    """
    for option in options:
        names = option.split(".")
        # Runners of other packages may read other keys.
        if names[0] not in TOP_LEVEL_KEYS and "runner_type" not in cfg:
            raise UserError(f"{option}: nothing reads {names[0]!r}; {_hint(cfg, names[0])}.")
        part, place = cfg.get(names[0]), names[0]
        for name in names[1:]:
            if isinstance(part, dict) and name not in part:
                similar = difflib.get_close_matches(name, part, 1, _SIMILAR)
                if similar and ("type" not in part or _swallows(part, name)):
                    raise UserError(
                        f"{option}: {place} has no {name!r}, but {similar[0]!r}; correct the key."
                    )
                break
            try:
                part = part[int(name) if isinstance(part, (list, tuple)) else name]
            except (KeyError, IndexError, TypeError, ValueError):
                break  # merging the option says what is wrong
            place = f"{place}.{name}"


def check_test_options(options: Iterable[str]) -> None:
    """Raise a UserError if one of the options, dotted keys, is of validation alone."""
    for option in options:
        counts = option.replace("val_", "test_", 1)
        if option.startswith("val_") and counts not in options:
            raise UserError(f"{option}: has no effect in a test; set {counts}.")


def _swallows(part: dict, name: str) -> bool:
    """Whether the type of a part takes any argument, and knows none of this name."""
    kinds = (registry.get(part["type"]) for registry in _REGISTRIES)
    kind = next((kind for kind in kinds if isinstance(kind, type)), object)
    if all(p.kind != p.VAR_KEYWORD for p in inspect.signature(kind).parameters.values()):
        return False  # it refuses the argument itself
    return not any(name in inspect.signature(base.__init__).parameters for base in kind.__mro__)


def _hint(cfg: Config, name: str) -> str:
    """Where a key belongs that is not one of the top."""
    places = list(dict.fromkeys(_places(cfg.to_dict(), name)))
    if places:
        more = " ..." if len(places) > _SHOWN else ""
        return f"set it where it is used: {', '.join(places[:_SHOWN])}{more}"
    similar = difflib.get_close_matches(name, TOP_LEVEL_KEYS, 1, _SIMILAR)
    if similar and name not in cfg:
        return f"set {similar[0]!r} instead"
    return f"see the keys with `python tools/misc/print_config.py {cfg.filename}`"


def _places(part: Any, name: str, place: str = "") -> Iterator[str]:
    """Dotted keys of a name, but for the top."""
    items = enumerate(part) if isinstance(part, (list, tuple)) else part.items()
    for key, value in items:
        inner = f"{place}.{key}" if place else str(key)
        if key == name and place:
            yield inner
        elif isinstance(value, (dict, list, tuple)):
            yield from _places(value, name, inner)
