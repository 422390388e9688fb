"""Reading the official Python archives of CIFAR without running what a pickle may carry.

Their files are pickles of Python 2: a dict of strings, lists of whole numbers or strings, and one
NumPy array. Here an unpickler admits exactly that. The three NumPy names that such a pickle calls
are answered by stand-ins which keep the bytes and the shape, so that not even NumPy's own
unpickling, which trusts what it is told about memory, sees a foreign file.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmdet_eql.utils.errors import UserError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class _StoredDtype:
    """Stands in for ``numpy.dtype``: remembers its name alone."""

    def __init__(self, name: str, *flags: int) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment; a byte has neither."""


class _StoredArray:
    """Stands in for an array that is being reconstructed: keeps the state it is given."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_array(self) -> np.ndarray:
        """The array, uint8."""
        _, shape, dtype, fortran_order, content = self.state
        if not isinstance(dtype, _StoredDtype) or dtype.name != "u1" or fortran_order:
            raise ValueError("its array does not hold bytes in C order")
        return np.frombuffer(content.encode("latin1"), dtype=np.uint8).reshape(shape)


class _ArrayType:
    """Stands in for ``numpy.ndarray``, which is named but must not be called."""

    def __init__(self, *args: Any) -> None:
        raise pickle.UnpicklingError("an array is made by _reconstruct alone")


def _reconstruct(kind: type, shape: Any, typecode: str) -> _StoredArray:
    if kind is not _ArrayType:
        raise pickle.UnpicklingError("only a plain array can be reconstructed")
    return _StoredArray()


_ADMITTED = {
    ("numpy", "dtype"): _StoredDtype,
    ("numpy", "ndarray"): _ArrayType,
    # NumPy 2 moved its core; the official files name the old place.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _CIFARUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def read_cifar_file(path: str | os.PathLike) -> dict:
    """Read one file of the archive.

    Args:
        path (str | os.PathLike): Such as ``cifar-100-python/train`` or its ``meta``.

    Returns:
        dict: Its fields by name; ``data``, if there, is uint8 of shape (M, 3072).

    Raises:
        UserError: If the file is damaged, or holds anything but strings, numbers, lists, dicts and
            an array of bytes.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            # Python 2's strings are bytes; latin1 gives each byte the character of its number.
            content = _CIFARUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError("it does not hold a dict")
        if isinstance(content.get("data"), _StoredArray):
            content["data"] = content["data"].to_array()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); unpack the official archive "
            "again (see docs/classification.md)."
        ) from None
    except Exception as error:  # what a damaged file makes of the unpickler is anyone's guess
        raise UserError(
            f"{path}: is not a file of the official CIFAR archive ({error}); nothing of it was "
            "run; download and unpack the archive again (see docs/classification.md)."
        ) from None
    return content


def read_cifar_images(
    paths: list[Path], label_field: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images and labels of some files.

    Args:
        paths (list[Path]): The files, in their order.
        label_field (str): ``"labels"`` (CIFAR-10), ``"fine_labels"`` or ``"coarse_labels"``.
        num_classes (int): C.

    Returns:
        tuple[np.ndarray, np.ndarray]: Images, BGR, uint8 of shape (M, 32, 32, 3); labels, int64 of
        shape (M,).

    Raises:
        UserError: If a file is missing, damaged or of another layout.
    """
    images, labels = [], []
    for path in paths:
        content = read_cifar_file(path)
        data, of_file = content.get("data"), content.get(label_field)
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
            raise UserError(
                f"{path}: field 'data' is not an array of {_PIXELS} bytes per image; download the "
                "Python version of the archive."
            )
        whole = isinstance(of_file, list) and all(type(label) is int for label in of_file)
        if not whole or len(of_file) != len(data):
            raise UserError(
                f"{path}: field '{label_field}' does not hold a whole number for each of the "
                f"{len(data)} images; check that the archive is that of the dataset's type."
            )
        if of_file and not (min(of_file) >= 0 and max(of_file) < num_classes):
            raise UserError(
                f"{path}: field '{label_field}' has labels outside 0 to {num_classes - 1}; "
                "download the archive again."
            )
        planes = data.reshape(-1, 3, _SIDE, _SIDE)
        images.append(planes[:, ::-1].transpose(0, 2, 3, 1))
        labels.append(np.array(of_file, dtype=np.int64))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)
