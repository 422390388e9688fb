"""Configs that name parts which cannot be built, told in one sentence with the key."""

import errno
import os.path as osp
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmengine.config import Config
from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from mmdet_eql.utils.errors import UserError

_BUILDER = build_from_cfg.__code__
_RUNNER_FILE = Runner.__init__.__code__.co_filename
#: Methods of the runner that build, beside those named so.
_BUILDING = ("from_cfg", "scale_lr", "_init_model_weights")


@contextmanager
def build_errors(cfg: Config) -> Iterator[None]:
    """Retell what is raised while parts of a config are built, in a ``with`` block.

    A constructor that is given a value it cannot use raises whatever it comes upon, as often as not
    an AttributeError far from the config. What is raised later, as by an iteration of training,
    keeps its traceback.

    Args:
        cfg (Config): What is built.

    Raises:
        UserError: In place of an exception of a constructor, with the key of what was built.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        frames, lines = zip(*traceback.walk_tb(error.__traceback__), strict=True)
        if not any(map(_builds, frames)) or _is_full_disk(error):
            raise
        types = [str(f.f_locals["cfg"]["type"]) for f in frames if _names_a_type(f)]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        file = osp.basename(frames[-1].f_code.co_filename)
        part = _named(key_of(cfg.to_dict(), types), types)
        raise UserError(
            f"{cfg.filename or 'the config'}: {part} cannot be built ({reason}, "
            f"in {file}, line {lines[-1]}); correct its values."
        ) from error


def key_of(cfg: dict, types: list[str]) -> str:
    """The dotted key of a part of a config, from the types of what it is in and its own.

    Args:
        cfg (dict): The config.
        types (list[str]): Types from the outermost part that was being built to the innermost.

    Returns:
        str: E.g. ``model.roi_head.bbox_head`` for MaskRCNN, StandardRoIHead, Shared2FCBBoxHead; the
        first one of several, and empty if there is none.
    """

    def search(value: object, path: tuple[str, ...], wanted: list[str]) -> str | None:
        items: list = []
        if isinstance(value, dict):
            items = list(value.items())
            if str(value.get("type")) == wanted[0]:
                wanted = wanted[1:]
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        if not wanted:
            return ".".join(path)
        found = (search(inner, (*path, str(key)), wanted) for key, inner in items)
        return next((key for key in found if key is not None), None)

    # What builds a part may give it another type, or have it built by something in no config.
    for first in range(len(types)):
        if (key := search(cfg, (), types[first:])) is not None:
            return key
    return ""


def _builds(frame: FrameType) -> bool:
    """Whether a call belongs to the building of the runner or one of its parts."""
    code = frame.f_code
    if code.co_filename == _RUNNER_FILE:
        return code.co_name.startswith("build_") or code.co_name in _BUILDING
    return code is _BUILDER


def _names_a_type(frame: FrameType) -> bool:
    part = frame.f_locals.get("cfg")
    return frame.f_code is _BUILDER and isinstance(part, dict) and "type" in part


def _named(place: str, types: list[str]) -> str:
    if place and types:
        return f"{place} (type {types[-1]!r})"
    return f"its {types[-1]!r}" if types else "its runner"


def _is_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
