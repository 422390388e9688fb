"""Loading checkpoints without running code that they may carry.

A checkpoint is a pickle, and unpickling calls whatever it names. Here every checkpoint that
mmengine loads goes through ``torch.load(weights_only=True)`` and a list of the types that a
training run stores. Importing this module registers that for all schemes of mmengine.
"""

import contextlib
import http.client
import io
import os
import os.path as osp
import pickle
import re
import sys
import urllib.parse
import urllib.request
import zipfile
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine import fileio
from mmengine.dist import barrier
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
)

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, by which pickle refers to the methods in a ``HistoryBuffer``."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr of {name!r}")


#: What a checkpoint may name beyond torch's own types: mmengine's log history and NumPy arrays.
SAFE_GLOBALS = [
    HistoryBuffer,
    (_history_buffer_attribute, "builtins.getattr"),
    (_history_buffer_attribute, "__builtin__.getattr"),
    slice,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    # NumPy 2 moved its core: checkpoints name the place of the version that wrote them.
    *(
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0])
        for core in ("core", "_core")
    ),
]


_PICKLE = (
    "{}: is a pickle as Detectron2's model zoo has them, not a checkpoint of MMDetection, whose "
    "weights have other names; give a checkpoint (.pth) of MMDetection."
)


def load_checkpoint_file(filename: str, map_location: Any = None, name: str | None = None) -> dict:
    """Load a local checkpoint without running code.

    Error messages call it ``name``, by default its path. A UserError if it is missing, damaged, no
    dict, or asks for more than :data:`SAFE_GLOBALS`.
    """
    path, name = osp.expanduser(filename), name or filename
    if not osp.isfile(path):
        raise UserError(f"{name}: no such checkpoint; correct the path.")
    return _load(path, map_location, name)


def _load(file: Any, map_location: Any, name: str) -> dict:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(file, error, name) from None
    except Exception as error:  # what a damaged file makes of the unpickler is anyone's guess
        if name.endswith(".pkl"):
            raise UserError(_PICKLE.format(name)) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: is not a readable checkpoint ({reason}); it may be cut off - copy it again, "
            "or resume from an older one."
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{name}: holds a {type(checkpoint).__name__} where a checkpoint holds a dict with "
            "'state_dict'; give a checkpoint."
        )
    # MMDetection 2 stored its config there, which mmengine's resume would run as a Python file.
    if isinstance(checkpoint.get("meta"), dict):
        checkpoint["meta"].pop("config", None)
    return checkpoint


def _refusal(path: Any, error: pickle.UnpicklingError, name: str) -> UserError:
    if name.endswith(".pkl") and not zipfile.is_zipfile(path):
        return UserError(_PICKLE.format(name))
    names = []
    # The file is hostile or damaged; its names are a courtesy.
    with contextlib.suppress(Exception), torch.serialization.safe_globals(SAFE_GLOBALS):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if not names and not zipfile.is_zipfile(path):
        return UserError(
            f"{name}: is not a readable checkpoint (no file that torch.save writes today); copy it "
            f"again, or if it is an old one that you trust, write a clean copy with "
            f"{_conversion(name)}."
        )
    # torch names the function in the middle of some twenty lines of advice.
    named = re.search(r"GLOBAL (\S+)", str(error))
    asked = ", ".join(names) or (named.group(1) if named else "something other than tensors")
    return UserError(
        f"{name}: refused, since loading it would call {asked}, which weights do not need; if you "
        f"trust who made it, write a clean copy with {_conversion(name)}."
    )


def _conversion(path: str) -> str:
    stem, extension = osp.splitext(path)
    return f"`python tools/misc/convert_checkpoint.py {path} {stem}_clean{extension or '.pth'}`"


def convert_checkpoint(source: str, target: str) -> list[str]:
    """Copy a trusted checkpoint, keeping what :func:`load_checkpoint_file` accepts.

    ``source`` is unpickled without any protection. Return the dotted keys that were left out. A
    UserError if ``source`` is missing or holds no tensors, or ``target`` exists.
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


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a file; mmengine logs what comes after ``load_from_``."""
    return load_checkpoint_file(filename, map_location)


def load_from_http(filename: str, map_location: Any = None) -> dict:
    """Load from the cache of ``torch.hub``, downloading to it what is missing."""
    return load_checkpoint_file(fetch(filename), map_location, filename)


def load_from_name(filename: str, map_location: Any = None) -> dict:
    """Load a backbone by its name, without the classifier that it was trained with."""
    checkpoint = load_from_http(address_of(filename), map_location)
    return {key: value for key, value in checkpoint.items() if not key.startswith("fc.")}


def address_of(name: str) -> str:
    """Return the URL of weights that torchvision or OpenMMLab names, such as
    ``torchvision://resnet50``; a path or URL as it is."""
    scheme, _, model = name.partition("://")
    if scheme in ("torchvision", "modelzoo"):
        # mmengine's reader of this file imports torchvision.
        known = fileio.load(osp.join(mmengine.__path__[0], "hub", "torchvision_0.12.json"))
    elif scheme in ("open-mmlab", "openmmlab"):
        known = get_external_models()
        model = get_deprecated_model_names().get(model, model)
    else:
        return name
    if model not in known:
        raise UserError(f"{name}: unknown weights; give the path of a file, or their URL.")
    return known[model]


def cache_path(url: str) -> str:
    """Return the path of weights in the cache of ``torch.hub``; a path as it is."""
    name = osp.basename(urllib.parse.urlparse(url).path)
    return osp.join(torch.hub.get_dir(), "checkpoints", name) if "://" in url else url


def fetch(url: str) -> str:
    """Return the path of weights in the cache of ``torch.hub``, downloading what is missing.

    Other processes of the machine wait for the first. A UserError if it cannot be downloaded.
    """
    path = cache_path(url)
    if os.environ.get("LOCAL_RANK", "0") == "0" and not osp.isfile(path):
        try:
            os.makedirs(osp.dirname(path), exist_ok=True)
            # Without a network this ends in seconds, where the download may wait for minutes.
            with urllib.request.urlopen(url, timeout=20) as answer:
                size = int(answer.headers["Content-Length"] or 0) / 1e6
            print(f"downloading {url} ({size:.0f} MB) to {path}", file=sys.stderr, flush=True)
            torch.hub.download_url_to_file(url, path, progress=sys.stderr.isatty())
        except (OSError, http.client.HTTPException) as error:  # among them URLError, HTTPError
            raise UserError(
                f"{url}: cannot be downloaded ({error}); download it where there is a network and "
                f"put it at {path} (TORCH_HOME names another folder), or write the path of the "
                "file into the config."
            ) from None
    barrier()
    return path


def load_from_ceph(filename: str, map_location: Any = None) -> dict:
    """Load from the object storage of mmengine's petrel backend."""
    try:
        content = fileio.get(filename, backend_args=dict(backend="petrel"))
    except (OSError, ImportError) as error:
        raise UserError(f"{filename}: cannot be read ({error}); give the path of a file.") from None
    return _load(io.BytesIO(content), map_location, filename)


def refuse_from_scheme(filename: str, map_location: Any = None) -> dict:
    """Refuse what cannot be fetched any more."""
    raise UserError(f"{filename}: download it, and give the path of the file.")


for _prefixes, _loader in (
    ("", load_from_local),
    (("http://", "https://"), load_from_http),
    (("modelzoo://", "torchvision://", "open-mmlab://", "openmmlab://"), load_from_name),
    ((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), load_from_ceph),
    (("mmcls://", "pavi://"), refuse_from_scheme),
):
    CheckpointLoader.register_scheme(_prefixes, _loader, force=True)
