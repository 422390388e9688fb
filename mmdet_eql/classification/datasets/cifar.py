"""CIFAR-10 and CIFAR-100, whole or cut to a long tail."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS

from mmdet_eql.classification.datasets.base import ImagesInMemory
from mmdet_eql.classification.datasets.cifar_archive import read_cifar_file, read_cifar_images
from mmdet_eql.utils.errors import UserError


class _CIFAR(ImagesInMemory):
    url: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    meta_file: str
    label_field: str
    names_field: str
    num_classes: int

    def __init__(self, data_root: str = "data/cifar", split: str = "train", **kwargs) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{type(self).__name__}: split is {split!r}; choose 'train' or 'test'.")
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """See the base class."""
        folder = Path(self.data_root) / self.folder
        if not folder.is_dir():
            raise UserError(
                f"{folder.absolute()}: no such folder; download {self.url} and unpack it in "
                f"{Path(self.data_root).absolute()} (nothing is downloaded by itself)."
            )
        meta = folder / self.meta_file
        names = read_cifar_file(meta).get(self.names_field)
        named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not named or len(names) != self.num_classes:
            raise UserError(
                f"{meta}: field '{self.names_field}' does not hold {self.num_classes} names; "
                f"download {self.url} again."
            )
        files = self.train_files if self.split == "train" else self.test_files
        images, labels = read_cifar_images(
            [folder / name for name in files], self.label_field, self.num_classes
        )
        return images, labels, names


@DATASETS.register_module()
class LongTailedCIFAR10(_CIFAR):
    """CIFAR-10, with its training set cut to a long tail if asked for.

    Read from the official archive for Python, unpacked: ``DATA_ROOT/cifar-10-batches-py``. The test
    set is the usual balanced one.

    Args:
        data_root (str): Folder that the archive was unpacked in.
        split (str): ``"train"`` or ``"test"``.
        imbalance_factor (float, optional): Size of the largest class over that of the smallest;
            None keeps all images.
        subset_seed (int): Seed of the choice of images; 0 is that of the code of LDAM.
        **kwargs: As in mmengine's ``BaseDataset``.

    Raises:
        UserError: If the archive is missing, damaged or asks to run anything.

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
    """CIFAR-100 with its 100 fine labels; see :class:`LongTailedCIFAR10`.

    Read from ``DATA_ROOT/cifar-100-python``.
    """

    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    folder = "cifar-100-python"
    train_files = ("train",)
    test_files = ("test",)
    meta_file = "meta"
    label_field = "fine_labels"
    names_field = "fine_label_names"
    num_classes = 100
