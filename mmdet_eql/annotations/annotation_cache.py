"""The columns of an annotation file, kept in a file beside it for the next start and other ranks.

One process decodes the annotation file and writes the cache while the others wait for it; then all
of them map the same file into memory. A cache is used only if the annotation file is still the one
it was made from, and only if it is whole.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mmengine.logging import print_log

from mmdet_eql.annotations.column_file import ColumnFileError, map_columns, write_columns
from mmdet_eql.annotations.lvis_columns import LVISColumns, from_arrays
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

#: Names the folder of all caches, or is ``off``.
CACHE_VARIABLE = "MMDET_EQL_CACHE"
#: Of the columns; caches of another version are made anew.
_VERSION = 1
#: Folder of the cache beside an annotation file.
CACHE_FOLDER = ".mmdet_eql_cache"
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 1 << 14


def cached_columns(
    path: str, read: Callable[[], LVISColumns], cache: bool | str = True
) -> LVISColumns:
    """The columns of an annotation file, from its cache if there is one.

    Whatever prevents caching is told in the log and costs no more than time.

    Args:
        path (str): Local path of the annotation file.
        read (Callable[[], LVISColumns]): Reads the file itself.
        cache (bool | str): Folder of the cache. True stands for the one that the environment
            variable ``MMDET_EQL_CACHE`` names, and without it for a folder beside the annotation
            file or, where that cannot be written, below ``~/.cache``. False is for no cache.

    Returns:
        LVISColumns: What ``read`` returns.

    Raises:
        UserError: What ``read`` raises.
        OSError: If the annotation file cannot be looked at.
    """
    places = _places(path, cache)
    if not places:
        return read()
    source = _describe(path)
    for place in places:
        columns = _open(place, source)
        if columns is not None:
            return columns
    for place in places:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_lock(place))
            except OSError:
                continue
            # Another process may have made it while this one waited.
            columns = _open(place, source, warn=True)
            if columns is not None:
                return columns
            columns = read()
            # A file that changed while it was read belongs to no description, and whether
            # annotations may be missing is for the reader to say each time.
            if len(columns.category) and _describe(path) == source:
                try:
                    _write(place, source, columns)
                    return _open(place, source) or columns
                except UserError as error:
                    print_log(f"not cached: {error}", logger="current", level=logging.WARNING)
            return columns
    print_log(
        f"{path}: is read anew at each start, since its cache cannot be written to "
        f"{' or '.join(str(place.parent) for place in places)}; set {CACHE_VARIABLE} to a folder "
        "that can be written.",
        logger="current",
        level=logging.WARNING,
    )
    return read()


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


def _describe(path: str) -> dict:
    """What changes when a file does: its size and times, and bytes from all over it."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.blake2b(digest_size=16)
        last = max(status.st_size - _SAMPLE_BYTES, 0)
        for number in range(_NUM_SAMPLES):
            file.seek(last * number // (_NUM_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "samples": digest.hexdigest(),
    }


def _open(place: Path, source: dict, warn: bool = False) -> LVISColumns | None:
    try:
        about, arrays = map_columns(place)
        if about["version"] != _VERSION or about["source"] != source:
            return None
        return from_arrays(about["categories"], arrays)
    except FileNotFoundError:
        return None
    except (ColumnFileError, OSError, KeyError, TypeError) as error:
        if warn:
            print_log(
                f"{place}: this cache is made anew, since it cannot be used ({error})",
                logger="current",
                level=logging.WARNING,
            )
        return None


def _write(place: Path, source: dict, columns: LVISColumns) -> None:
    about = {"version": _VERSION, "source": source, "categories": columns.categories}
    with (
        atomic_write(place, f"set {CACHE_VARIABLE} to another folder") as unfinished,
        open(unfinished, "wb") as file,
    ):
        write_columns(file, about, columns.arrays())


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Wait until no other process makes a cache.

    Raises:
        OSError: If the folder cannot be made or written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_suffix(".lock"), "w") as file:
        # Where a file system has no locks, two processes may do the same work; either writes its
        # cache whole.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
