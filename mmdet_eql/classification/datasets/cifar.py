"""CIFAR-10 and CIFAR-100, whole or cut to a long tail, read without running their pickles.

The official archives hold pickles of Python 2: a dict of strings, whole numbers, lists of these,
and one NumPy array. The unpickler admits only these; stand-ins for NumPy's classes keep the bytes
and the shape, as NumPy's own unpickling trusts its input.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import DATASETS

from mmdet_eql.classification.datasets.base import ImagesInMemory
from mmdet_eql.utils.errors import UserError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class _Dtype:
    """Stands in for ``numpy.dtype``: keeps its name only."""

    def __init__(self, name: str, *flags: int) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment; single bytes have neither."""


class _Array:
    """Stands in for a ``numpy.ndarray`` of bytes that is being reconstructed."""

    def __init__(self, *args: Any) -> None:
        """Ignore the initial, empty shape; ``__setstate__`` has the true one."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, content = state
        if not isinstance(dtype, _Dtype) or dtype.name != "u1" or fortran_order:
            raise ValueError("its array does not hold bytes in C order")
        self.array = np.frombuffer(content.encode("latin1"), dtype=np.uint8).reshape(shape)


_ADMITTED = {
    ("numpy", "dtype"): _Dtype,
    # An argument of _reconstruct, which must not be called itself.
    ("numpy", "ndarray"): None,
    # NumPy 2 moved its core; the official files name the old place.
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _CIFARUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]


def read_cifar_file(path: str | os.PathLike) -> dict:
    """Read one file of the archive, such as ``cifar-100-python/train``.

    Returns:
        dict: Its fields by name; ``data``, if there, is uint8 of shape (M, 3072).

    Raises:
        UserError: If the file is damaged or holds anything but what the module docstring names.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            # Python 2's strings are bytes; latin1 gives each byte the character of its number.
            content = _CIFARUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError("it does not hold a dict")
        if isinstance(content.get("data"), _Array):
            content["data"] = content["data"].array
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); unpack the official archive "
            "again (see docs/classification.md)."
        ) from None
    except Exception as error:  # a damaged file can raise anything
        raise UserError(
            f"{path}: is not a file of the official CIFAR archive ({error}); nothing of it was "
            "run; download and unpack the archive again (see docs/classification.md)."
        ) from None
    return content


class _CIFAR(ImagesInMemory):
    splits = ("train", "test")

    def __init__(self, data_root: str = "data/cifar", split: str = "train", **kwargs) -> None:
        super().__init__(split=split, data_root=data_root, **kwargs)

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """See the base class."""
        folder = Path(self.data_root) / self.folder
        if not folder.is_dir():
            raise UserError(
                f"{folder.absolute()}: no such folder; download {self.url} and unpack it in "
                f"{Path(self.data_root).absolute()} (there is no automatic download)."
            )
        meta = folder / self.meta_file
        names = read_cifar_file(meta).get(self.names_field)
        if [type(name) for name in names or []] != [str] * self.num_classes:
            raise UserError(
                f"{meta}: field '{self.names_field}' does not hold {self.num_classes} names; "
                f"download {self.url} again."
            )
        files = self.train_files if self.split == "train" else self.test_files
        parts = [self._read_images(folder / name) for name in files]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return np.ascontiguousarray(images), labels, names

    def _read_images(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = read_cifar_file(path)
        data, labels = content.get("data"), content.get(self.label_field)
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
            raise UserError(
                f"{path}: field 'data' is not an array of {_PIXELS} bytes per image; download the "
                "Python version of the archive."
            )
        if [type(label) for label in labels or []] != [int] * len(data):
            raise UserError(
                f"{path}: field '{self.label_field}' does not hold a whole number for each of the "
                f"{len(data)} images; check that the archive is that of the dataset's type."
            )
        planes = data.reshape(-1, 3, _SIDE, _SIDE)
        return planes[:, ::-1].transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)


@DATASETS.register_module()
class LongTailedCIFAR10(_CIFAR):
    """CIFAR-10, whole or with its training set cut to a long tail.

    Read from the official archive for Python, unpacked: ``DATA_ROOT/cifar-10-batches-py``.

    Args:
        data_root (str): Folder that the archive was unpacked in.
        split (str): ``"train"`` or ``"test"``, the usual balanced one.
        **kwargs: As in :class:`ImagesInMemory`: ``imbalance_factor``, ``subset_seed``, ...; the
            seed 0 is that of the code of LDAM.

    Raises:
        UserError: If the archive is missing or damaged, or its pickles hold anything else.

    Example:
        >>> LongTailedCIFAR10("data/cifar", imbalance_factor=100)  # doctest: +SKIP
    """

    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    folder = "cifar-10-batches-py"
    train_files = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_files = ("test_batch",)
    meta_file = "batches.meta"
    label_field = "labels"
    names_field = "label_names"
    num_classes = 10


@DATASETS.register_module()
class LongTailedCIFAR100(_CIFAR):
    """CIFAR-100 with its 100 fine labels, in ``DATA_ROOT/cifar-100-python``; otherwise as
    :class:`LongTailedCIFAR10`."""

    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    folder = "cifar-100-python"
    train_files = ("train",)
    test_files = ("test",)
    meta_file = "meta"
    label_field = "fine_labels"
    names_field = "fine_label_names"
    num_classes = 100
