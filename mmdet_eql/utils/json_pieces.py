"""JSON files: long lists of objects, of which never more than a piece exists as Python objects, and
whole files, with a sentence on what is wrong.

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
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import local_copy

_BYTES_AT_ONCE = 1 << 22
#: Where a piece of the file is searched for a place to cut it: its end.
_CUT_WITHIN = 1 << 16
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
    with _open(path) as file:
        return file.read(limit)


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        compressed = file.read(2) == _GZIP
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if compressed else file
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


def iterate_pieces(content: bytes | msgspec.Raw) -> Iterator[bytes]:
    """Cut a JSON list of objects into shorter lists.

    A cut inside a string or an object leaves a piece that is no JSON, so whoever decodes all pieces
    knows that the whole is JSON.

    Yields:
        bytes: Some megabytes of JSON: a list of the next objects.

    Raises:
        ValueError: If ``content`` does not begin like a list.

    Example:
        >>> list(iterate_pieces(b'[{"id": 1}, {"id": 2}]'))
        [b'[{"id": 1}, {"id": 2}]']
    """
    view, step = memoryview(content), _BYTES_AT_ONCE
    return _pieces(view[start : start + step] for start in range(0, len(view), step))


def read_pieces(path: str) -> Iterator[bytes]:
    """Read a local file as :func:`iterate_pieces` cuts it, and raise OSError as `read_file`."""
    with _open(path) as file:
        yield from _pieces(iter(lambda: file.read(_BYTES_AT_ONCE), b""))


def _pieces(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    parts = []
    for chunk in chunks:
        if not parts:
            beginning = _BEGINNING.match(chunk)
            if beginning is None:
                break
            parts, chunk = [b"["], memoryview(chunk)[beginning.end() :]
        cut = _BETWEEN_RECORDS.search(chunk, max(0, len(chunk) - _CUT_WITHIN))
        if cut is None:
            parts.append(chunk)
        else:
            chunk = memoryview(chunk)
            yield b"".join((*parts, chunk[: cut.start() + 1], b"]"))
            parts = [b"[", chunk[cut.end() - 1 :]]
    if not parts:
        raise ValueError("not a list")
    yield b"".join(parts)


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
