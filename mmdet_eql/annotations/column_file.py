"""Named arrays in one file that is mapped into memory instead of read.

A file is a fixed head, a header in JSON, and the arrays::

    8 bytes   magic
    4 bytes   CRC-32 of all that follows
    8 bytes   length of the header in bytes
    header    {"about": ..., "arrays": {name: [dtype, shape, offset]}}
    arrays    each at a multiple of 64 bytes

Nothing in it is a program: there are no pickles, and the arrays hold numbers alone. Numbers are
little-endian.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_MAGIC = b"EQLCOL01"
_HEAD = struct.Struct("<8sIQ")
_CHECKED_FROM = len(_MAGIC) + 4
_ALIGNMENT = 64
_BYTES_AT_ONCE = 1 << 24


class ColumnFileError(Exception):
    """A file that is not what :func:`write_columns` wrote; the message says in what respect."""


def write_columns(file: BinaryIO, about: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an empty file.

    Args:
        file (BinaryIO): Open for writing.
        about: What is said of the arrays, in plain types for JSON.
        arrays (Mapping[str, np.ndarray]): Arrays of numbers or bools, by name.
    """
    # Offsets count from the end of the header, whose length depends on them. It is padded so that
    # they are aligned in the file, too.
    places, end = {}, 0
    for name, array in arrays.items():
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        places[name] = [array.dtype.newbyteorder("<").str, list(array.shape), start]
        end = start + array.nbytes
    header = json.dumps({"about": about, "arrays": places}).encode("ascii")
    header += b" " * (-(_HEAD.size + len(header)) % _ALIGNMENT)

    checksum = zlib.crc32(struct.pack("<Q", len(header)))

    def write(block: bytes | memoryview) -> None:
        nonlocal checksum
        checksum = zlib.crc32(block, checksum)
        file.write(block)

    file.write(_HEAD.pack(_MAGIC, 0, len(header)))
    write(header)
    position = 0
    for array, (dtype, _, start) in zip(arrays.values(), places.values(), strict=True):
        write(b"\0" * (start - position))
        flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)
        for at in range(0, len(flat), _BYTES_AT_ONCE):
            write(memoryview(flat[at : at + _BYTES_AT_ONCE]))
        position = start + len(flat)
    file.seek(len(_MAGIC))
    file.write(struct.pack("<I", checksum))


def map_columns(path: str | os.PathLike) -> tuple[Any, dict[str, np.ndarray]]:
    """Map a file into memory and check it.

    Args:
        path (str | os.PathLike): What :func:`write_columns` wrote.

    Returns:
        tuple[Any, dict[str, np.ndarray]]: ``about``, and the arrays, read-only. Their memory is the
        system's cache of the file, which all processes share.

    Raises:
        ColumnFileError: If the file is another one, is cut off, or was changed.
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _HEAD.size:
            raise ColumnFileError("is cut off")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content = memoryview(mapped)
    magic, checksum, header_length = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        raise ColumnFileError("is of another kind")
    start = _HEAD.size + header_length
    if start > len(content) or zlib.crc32(content[_CHECKED_FROM:]) != checksum:
        raise ColumnFileError("is cut off or was changed")
    if hasattr(mmap, "MADV_DONTNEED"):
        # What was checked stays in the system's cache, but not on this process's account.
        mapped.madvise(mmap.MADV_DONTNEED)
    try:
        header = json.loads(bytes(content[_HEAD.size : start]))
        arrays = {}
        for name, (dtype, shape, offset) in header["arrays"].items():
            count = int(np.prod(shape, dtype=np.int64))
            at = start + offset if count else 0
            arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shape)
        return header["about"], arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ColumnFileError(f"has a header that makes no sense: {error}") from None
