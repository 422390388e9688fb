"""JSON files: long lists of objects, of which never more than a piece exists as Python objects in a
process, and whole files, with a sentence on what is wrong.

Files may be compressed by gzip, whatever their name.
"""

import contextlib
import errno
import gc
import gzip
import json
import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import local_copy
from mmdet_eql.utils.processes import map_forked, num_cores

_BYTES_AT_ONCE = 1 << 20
#: For fewer pieces a process takes longer to start than it saves.
_PIECES_OF_A_PROCESS = 16
_GZIP = b"\x1f\x8b"
_BEGINNING = re.compile(rb"[ \t\r\n]*\[")
_BETWEEN_RECORDS = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")


def map_file(path: str) -> mmap.mmap | bytes:
    """Map a local file into memory, read-only; a compressed one is decompressed.

    Raises:
        OSError: If it cannot be read, or its compressed data is cut off or damaged.
        ValueError: If it is empty.
    """
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_file(path) if content[:2] == _GZIP else content


def read_file(path: str, limit: int = -1) -> bytes:
    """Return what a local file begins with, decompressed: so many bytes, or by default all.

    Raises:
        OSError: If it cannot be read, or its compressed data is cut off or damaged.
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == _GZIP
        file.seek(0)
        try:
            return (gzip.GzipFile(fileobj=file) if compressed else file).read(limit)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise OSError(errno.EIO, "its gzip data is cut off or damaged") from None


def load_json(path: str, what: str, hint: str, backend_args: dict | None = None) -> Any:
    """Read a JSON file.

    Args:
        path (str): File to read.
        what (str): What it is, such as ``"annotation file"``.
        hint (str): What to do if it does not exist.
        backend_args (dict, optional): mmengine's file backend, for files that are not local.

    Raises:
        UserError: If it cannot be read, or is not JSON.
    """
    try:
        with local_copy(path, backend_args) as local_path:
            content = read_file(local_path)
        # Windows programs write byte order marks, and UTF-16.
        return json.loads(content.decode(json.detect_encoding(content)))
    except FileNotFoundError:
        problem = f"no such {what}; {hint}"
    except IsADirectoryError:
        problem = f"is a folder; give the {what} in it"
    except PermissionError:
        problem = "may not be read by this user; change its permissions"
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); download or make the file again"
    except UnicodeDecodeError as error:
        problem = (
            f"is not a JSON text file (byte {error.start} is not UTF-8); give the unpacked file"
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno} of {len(error.doc):,} characters"
        if not error.doc.strip():
            problem = "is empty; download or make the file again"
        # A broken-off download ends inside a value: the parser stops at the end of the text.
        elif not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            problem = f"is cut off ({where}); download or make the file again"
        else:
            problem = f"is not JSON ({where}: {error.msg}); correct it, or give the {what}"
    except RecursionError:
        problem = f"is nested too deeply to be the {what}"
    raise UserError(f"{path}: {problem}.")


def forget_pages(content: mmap.mmap | bytes) -> None:
    """Take what was read of a mapped file off this process's account; it can be read again."""
    if isinstance(content, mmap.mmap):
        content.madvise(mmap.MADV_DONTNEED)


def cut_list(content: bytes | mmap.mmap | memoryview) -> Iterator[tuple[int, int]]:
    """Cut a JSON list of objects where one ends, after about a megabyte each.

    A cut inside a string or an object leaves a piece that is no JSON, so whoever decodes all pieces
    knows that the whole is JSON.

    Yields:
        tuple[int, int]: Where the next objects begin and end, for :func:`piece_of`.

    Raises:
        ValueError: If ``content`` does not begin like a list.
    """
    beginning = _BEGINNING.match(content)
    if beginning is None:
        raise ValueError("not a list")
    start = beginning.end()
    while cut := _BETWEEN_RECORDS.search(content, start + _BYTES_AT_ONCE):
        yield start, cut.start() + 1
        start = cut.end() - 1
    yield start, len(content)


def piece_of(content: bytes | mmap.mmap | memoryview, start: int, end: int) -> bytes:
    """Return the objects from one place to another (:func:`cut_list`) as a JSON list."""
    closing = b"]" if end < len(content) else b""  # the last objects have that of the whole
    return b"".join((b"[", memoryview(content)[start:end], closing))


def iterate_pieces(content: bytes | msgspec.Raw) -> Iterator[bytes]:
    """Yield a JSON list of objects as shorter lists (:func:`cut_list`).

    Example:
        >>> list(iterate_pieces(b'[{"id": 1}, {"id": 2}]'))
        [b'[{"id": 1}, {"id": 2}]']
    """
    view = memoryview(content)
    return (piece_of(view, *bounds) for bounds in cut_list(view))


def map_pieces(work: Callable[[bytes], Any], content: bytes | mmap.mmap) -> list:
    """Apply a function to a JSON list of objects piece by piece, of a long list on all cores.

    Args:
        work (Callable): Takes a shorter list (:func:`cut_list`). What it returns or raises must be
            such that it can be pickled.
        content (bytes | mmap.mmap): The list, of a file that :func:`map_file` mapped.

    Returns:
        list: What ``work`` returned, in order.

    Raises:
        ValueError: If ``content`` does not begin like a list.
        UserError: If a process was killed.
    """

    def work_on(bounds: tuple[int, int]) -> Any:
        result = work(piece_of(content, *bounds))
        forget_pages(content)
        return result

    bounds = list(cut_list(content))
    num_workers = min(num_cores(), len(bounds) // _PIECES_OF_A_PROCESS)
    forget_pages(content)
    with map_forked(work_on, bounds, max(1, num_workers)) as results:
        return list(results)


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Decoded JSON holds no cycles; looking for them takes longer than decoding it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
