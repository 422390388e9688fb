"""The dataset of MiniLVIS crops, which :mod:`mmdet_eql.minilvis.crops` renders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS

from mmdet_eql.classification.datasets.base import ImagesInMemory
from mmdet_eql.utils.errors import UserError


@DATASETS.register_module()
class MiniLVISCrops(ImagesInMemory):
    """The crops of ``tools/datasets/make_minilvis_crops.py``, whole or cut to a long tail.

    Args:
        ann_file (str): The ``.npz`` file, relative to ``data_root``.
        split (str): ``"train"`` or ``"val"``.
        **kwargs: As in :class:`ImagesInMemory`: ``imbalance_factor``, ``subset_seed``, ...

    Raises:
        UserError: If the file is missing or damaged.

    Example:
        >>> MiniLVISCrops("data/minilvis_crops.npz", "train")  # doctest: +SKIP
    """

    splits = ("train", "val")

    def __init__(self, ann_file: str, split: str, **kwargs) -> None:
        super().__init__(ann_file=ann_file, split=split, **kwargs)

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """See the base class."""
        path = Path(self.ann_file)
        tool = "python tools/datasets/make_minilvis_crops.py"
        if not path.is_file():
            raise UserError(f"{path.absolute()}: no such file; make it by `{tool} {path}`.")
        try:
            with np.load(path, allow_pickle=False) as file:
                names = f"{self.split}_images", f"{self.split}_labels", "classes"
                images, labels, classes = (file[name] for name in names)
            if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
                raise ValueError(f"{names[0]} and {names[1]} do not fit together")
        except Exception as error:  # a damaged archive raises zipfile's, zlib's or NumPy's errors
            raise UserError(
                f"{path}: is not a complete file of MiniLVIS crops "
                f"({' '.join(str(error).split())}); make it again by `{tool} --force {path}`."
            ) from None
        return images, labels, classes.tolist()
