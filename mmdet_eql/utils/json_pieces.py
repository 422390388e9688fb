"""Long JSON lists of objects, piece by piece: never more than a piece exists as Python objects.

Files may be compressed by gzip, whatever their name.
"""

import contextlib
import errno
import gc
import gzip
import mmap
import re
import zlib
from collections.abc import Iterator

import msgspec

_BYTES_AT_ONCE = 1 << 22
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


def forget_pages(content: mmap.mmap | bytes) -> None:
    """Take what was read of a mapped file off this process's account; it can be read again."""
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def iterate_pieces(content: bytes | mmap.mmap | msgspec.Raw) -> Iterator[bytes]:
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
    content = memoryview(content)
    beginning = _BEGINNING.match(content)
    if beginning is None:
        raise ValueError("not a list")
    start = beginning.end()
    while cut := _BETWEEN_RECORDS.search(content, start + _BYTES_AT_ONCE):
        yield b"[%b]" % content[start : cut.start() + 1]
        start = cut.end() - 1
    yield b"[%b" % content[start:]


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
