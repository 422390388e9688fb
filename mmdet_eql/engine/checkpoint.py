"""Loading checkpoints without running code that they may carry.

A checkpoint is a pickle, and unpickling calls whatever it names. Here every checkpoint that
mmengine loads goes through ``torch.load(weights_only=True)`` and an explicit list of the types that
an honest training run stores; anything else is refused. Importing this module registers the
loaders in mmengine's ``CheckpointLoader`` for all of its schemes.
"""

import contextlib
import functools
import os
import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

_HISTORY_STATISTICS = ("min", "max", "current", "mean")


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which pickle refers to the methods in a ``HistoryBuffer``."""
    if owner is HistoryBuffer and name in _HISTORY_STATISTICS:
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr of {name!r}")


def _numpy_globals() -> list:
    reconstruct = np.array(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [np.dtype(kind) for kind in "?bhilqBHILQefd"]
    return [
        np.ndarray,
        np.dtype,
        *{type(dtype) for dtype in dtypes},
        # NumPy 2 moved its core: checkpoints name the place of the version that wrote them.
        *(
            (function, f"numpy.{core}.multiarray.{function.__name__}")
            for function in (reconstruct, scalar)
            for core in ("core", "_core")
        ),
    ]


#: What a checkpoint may name beyond torch's own types: mmengine's log history and NumPy arrays.
SAFE_GLOBALS = [
    HistoryBuffer,
    (_history_buffer_attribute, "builtins.getattr"),
    (_history_buffer_attribute, "__builtin__.getattr"),
    slice,
    *_numpy_globals(),
]


def load_checkpoint_file(filename: str, map_location: Any = None) -> dict:
    """Load a local checkpoint without running code.

    Args:
        filename (str): Path of the checkpoint.
        map_location: As in ``torch.load``.

    Returns:
        dict: The checkpoint.

    Raises:
        UserError: If the file is missing or damaged, is no checkpoint, or asks for more than
            :data:`SAFE_GLOBALS`.
    """
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise UserError(f"{filename}: no such checkpoint; correct the path.")
    try:
        with _weights_only_unpickling():
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from None
    except Exception as error:  # what a damaged file makes of the unpickler is anyone's guess
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{filename}: is not a readable checkpoint ({reason}); it may be cut off - copy it "
            "again, or resume from an older one."
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{filename}: holds a {type(checkpoint).__name__} where a checkpoint holds a dict with "
            "'state_dict'; give a checkpoint."
        )
    # mmengine's resume runs meta['config'] as a Python file, yet never writes it.
    if isinstance(checkpoint.get("meta"), dict) and "config" in checkpoint["meta"]:
        raise UserError(
            f"{filename}: meta['config'] holds a program that resuming would run; if you trust the "
            f"weights, write a clean copy with {_conversion(filename)}."
        )
    return checkpoint


@contextlib.contextmanager
def _weights_only_unpickling() -> Iterator[None]:
    # onedl-mmengine 0.10.12 falls back to weights_only=False and OpenMMLab's own 0.10.7 passes
    # nothing at all; torch lets this variable overrule both.
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _refusal(path: str, error: pickle.UnpicklingError) -> UserError:
    names = []
    # The file is hostile or damaged; its names are a courtesy.
    with contextlib.suppress(Exception), torch.serialization.safe_globals(SAFE_GLOBALS):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if not names and not zipfile.is_zipfile(path):
        return UserError(
            f"{path}: is not a readable checkpoint (no file that torch.save writes today); copy it "
            f"again, or if it is an old one that you trust, write a clean copy with "
            f"{_conversion(path)}."
        )
    asked = ", ".join(names) or _asked_by(error)
    return UserError(
        f"{path}: refused, since loading it would call {asked}, which weights do not need; if you "
        f"trust who made it, write a clean copy with {_conversion(path)}."
    )


def _asked_by(error: pickle.UnpicklingError) -> str:
    # torch names the function in the middle of some twenty lines of advice.
    named = re.search(r"GLOBAL (\S+)", str(error))
    return named.group(1) if named else "something other than tensors"


def _conversion(path: str) -> str:
    stem, extension = osp.splitext(path)
    return f"`python tools/misc/convert_checkpoint.py {path} {stem}_clean{extension or '.pth'}`"


def convert_checkpoint(source: str, target: str) -> list[str]:
    """Copy a trusted checkpoint, keeping what :func:`load_checkpoint_file` accepts.

    This unpickles ``source`` without any protection.

    Args:
        source (str): Path of the checkpoint.
        target (str): Path of the clean copy; must not exist.

    Returns:
        list[str]: Keys, dotted, that were left out.

    Raises:
        UserError: If ``source`` is missing, holds no tensors, or ``target`` exists.
    """
    if not osp.isfile(source):
        raise UserError(f"{source}: no such checkpoint; correct the path.")
    if osp.exists(target):
        raise UserError(f"{target}: exists already; remove it or name another file.")
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle can raise anything
        raise UserError(f"{source}: cannot be loaded even without protection ({error}).") from None
    dropped: list[str] = []
    clean = _keep_plain(checkpoint, "", dropped)
    weights = clean.get("state_dict", clean) if isinstance(clean, dict) else None
    if not weights or not any(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{source}: holds no dict of tensors that could be kept; it is no model.")
    with atomic_write(target) as unfinished:
        torch.save(clean, unfinished)
    return dropped


_DROP = object()


def _keep_plain(value: Any, key: str, dropped: list[str]) -> Any:
    """Copy tensors and plain Python values; note everything else in ``dropped``."""
    if key == "meta.config":
        dropped.append(key)
        return _DROP
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        items = {k: _keep_plain(v, f"{key}.{k}".lstrip("."), dropped) for k, v in value.items()}
        return {k: v for k, v in items.items() if v is not _DROP}
    if isinstance(value, (list, tuple)):
        items = [_keep_plain(v, f"{key}[{i}]", dropped) for i, v in enumerate(value)]
        return (tuple if isinstance(value, tuple) else list)(v for v in items if v is not _DROP)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    dropped.append(key)
    return _DROP


def _guard(loader: Callable) -> Callable:
    """Make one of mmengine's loaders unpickle weights only."""

    @functools.wraps(loader)
    def load(filename: str, *args, **kwargs) -> dict:
        try:
            with _weights_only_unpickling():
                return loader(filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{filename}: refused, since loading it would call {_asked_by(error)}, which "
                "weights do not need; download it, and if you trust who made it, write a clean "
                "copy with `python tools/misc/convert_checkpoint.py SOURCE TARGET`."
            ) from None
        except ImportError as error:
            raise UserError(
                f"{filename}: finding it needs the package '{error.name}', which is not installed; "
                "install it, or download the weights and give the path of the file."
            ) from None
        except OSError as error:  # among them URLError and HTTPError
            raise UserError(
                f"{filename}: cannot be fetched ({error}); download it where there is a network, "
                "and give the path of the file."
            ) from None

    return load


def register_safe_loaders() -> None:
    """Replace the loaders of all of mmengine's checkpoint schemes by guarded ones."""

    def load_from_local(filename: str, map_location: Any = None) -> dict:
        return load_checkpoint_file(filename, map_location)

    CheckpointLoader.register_scheme("", load_from_local, force=True)
    for prefixes, name in (
        (("http://", "https://"), "load_from_http"),
        (("modelzoo://", "torchvision://"), "load_from_torchvision"),
        (("open-mmlab://", "openmmlab://"), "load_from_openmmlab"),
        ("mmcls://", "load_from_mmcls"),
        ("pavi://", "load_from_pavi"),
        ((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), "load_from_ceph"),
    ):
        loader = getattr(mmengine_checkpoint, name)
        CheckpointLoader.register_scheme(prefixes, _guard(loader), force=True)


register_safe_loaders()
