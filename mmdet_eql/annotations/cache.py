"""The columns of an annotation file, kept in a file for the next start and for other ranks.

One process decodes the annotation file and writes the cache while the others wait; then all map it
into memory. It is used only if the annotation file has not changed and its checksum is right.

A cache file holds arrays in NumPy's ``.npy`` format one after another, the first of them JSON that
names the others, and at the end the CRC-32 of all that precedes.
"""

import hashlib
import json
import logging
import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write
from mmdet_eql.utils.json_pieces import forget_pages

#: Environment variable that names the folder of all caches, or is ``off``.
CACHE_VARIABLE = "MMDET_EQL_CACHE"
#: Folder of the cache beside an annotation file.
CACHE_FOLDER = ".mmdet_eql_cache"
#: Of the file's content; caches of another version are made anew.
_VERSION = 4
_CHECKSUM = struct.Struct("<I")


class CacheFileError(Exception):
    """A file that :func:`write_cache` did not write, or that has changed since."""


def cached_columns(
    path: str, read: Callable[[], AnnotationColumns], cache: bool | str = True
) -> AnnotationColumns:
    """The columns of the annotation file ``path``: its cache, or what ``read`` returns.

    Whatever prevents caching is logged as a warning.

    Args:
        path (str): Local path of the annotation file.
        read (Callable[[], AnnotationColumns]): Reads the file itself.
        cache (bool | str): Folder of the cache. True stands for the one that the environment
            variable ``MMDET_EQL_CACHE`` names, and without it for a folder beside the annotation
            file or, where that cannot be written, below ``~/.cache``. False is for no cache.

    Raises:
        OSError: If the annotation file does not exist or cannot be read.
    """
    places = _places(path, cache)
    if not places:
        return read()
    source = _describe(path)
    for place in places:
        columns = _open(place, source)
        if columns is not None:
            return columns
    # Slower to import than a cache is to open.
    from filelock import FileLock

    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place.with_suffix(".lock")).acquire()
        except OSError:
            continue
        with lock:
            # Another process may have written it while this one waited.
            return _open(place, source, warn=True) or _read_and_write(path, read, place, source)
    _warn(
        f"{path}: is decoded at each start, since its cache cannot be written to "
        f"{' or '.join(str(place.parent) for place in places)}; set {CACHE_VARIABLE} to a folder "
        "that can be written."
    )
    return read()


def write_cache(path: str | os.PathLike, about: dict, columns: AnnotationColumns) -> None:
    """Write columns to a file, with ``about``, a dict of plain types for JSON."""
    # The widest numbers first, so that all are aligned.
    arrays = sorted(columns.arrays().items(), key=lambda item: -item[1].itemsize)
    header = {"about": about, "columns": columns.about(), "names": [name for name, _ in arrays]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "w+b") as file:
        for array in (np.frombuffer(text, np.uint8), *(array for _, array in arrays)):
            np.save(file, array, allow_pickle=False)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            checksum = zlib.crc32(content)
        file.write(_CHECKSUM.pack(checksum))


def map_cache(path: str | os.PathLike) -> tuple[dict, AnnotationColumns]:
    """Map what :func:`write_cache` wrote into memory, and check it.

    Returns:
        tuple[dict, AnnotationColumns]: ``about``, and the columns, read-only. All processes share
        their memory.

    Raises:
        CacheFileError: If it is another file, is cut off, or was changed.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size - _CHECKSUM.size
        if end < 0:
            raise CacheFileError("it is cut off")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (checksum,) = _CHECKSUM.unpack_from(content, end)
        if zlib.crc32(memoryview(content)[:end]) != checksum:
            raise CacheFileError("it is cut off or was changed")
        forget_pages(content)
        try:
            header = json.loads(_next_array(file, content).tobytes())
            arrays = {name: _next_array(file, content) for name in header["names"]}
            lists = {k: tuple(v) for k, v in header["columns"].items() if isinstance(v, list)}
            return header["about"], AnnotationColumns(**{**header["columns"], **lists, **arrays})
        except (ValueError, KeyError, TypeError) as error:
            raise CacheFileError(f"its content is invalid: {error}") from None


def _next_array(file, content: mmap.mmap) -> np.ndarray:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    array = np.ndarray(shape, dtype, content, file.tell())
    file.seek(array.nbytes, os.SEEK_CUR)
    return array


def _places(path: str, cache: bool | str) -> list[Path]:
    """Where a cache may lie, best first."""
    path = os.path.realpath(path)
    folder = os.environ.get(CACHE_VARIABLE) if cache is True else cache
    if folder is False or folder == "off":
        return []
    # Files of one name in several folders share a folder of caches.
    name = os.path.basename(path)
    distinct = f"{hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()}-{name}"
    if folder:
        return [Path(folder, f"{distinct}.columns")]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [
        Path(os.path.dirname(path), CACHE_FOLDER, f"{name}.columns"),
        Path(home, "mmdet_eql", f"{distinct}.columns"),
    ]


def _describe(path: str) -> list[int]:
    """What changes when a file does; nobody can set the time of its last change of status."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _open(place: Path, source: list[int], warn: bool = False) -> AnnotationColumns | None:
    try:
        about, columns = map_cache(place)
    except FileNotFoundError:
        return None
    except (CacheFileError, OSError) as error:
        if warn:
            _warn(f"{place}: this cache is made anew, since it cannot be used: {error}")
        return None
    return columns if about == {"version": _VERSION, "source": source} else None


def _read_and_write(
    path: str, read: Callable[[], AnnotationColumns], place: Path, source: list[int]
) -> AnnotationColumns:
    columns = read()
    # Not if the file changed while it was read. And if it has no annotations, the reader has to
    # decide each time whether it may.
    if len(columns.category) and _describe(path) == source:
        try:
            with atomic_write(place, f"set {CACHE_VARIABLE} to another folder") as unfinished:
                write_cache(unfinished, {"version": _VERSION, "source": source}, columns)
            return _open(place, source) or columns
        except UserError as error:
            _warn(f"not cached: {error}")
    return columns


def _warn(sentence: str) -> None:
    try:
        from mmengine.logging import print_log
    except ImportError:
        warnings.warn(sentence, stacklevel=2)
    else:
        print_log(sentence, logger="current", level=logging.WARNING)
