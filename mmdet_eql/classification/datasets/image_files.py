"""Images in files: named by a list (ImageNet-LT, Places-LT), or sorted into folders."""

import os
import os.path as osp

from mmdet.registry import DATASETS
from mmengine.utils import scandir

from mmdet_eql.classification.datasets.base import LabelledImages
from mmdet_eql.utils.errors import UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


@DATASETS.register_module()
class ImageListDataset(LabelledImages):
    """Images of a list file with a path and a label on each line, the format of ImageNet-LT and
    Places-LT (Liu et al., arXiv 1904.05160).

    Args:
        ann_file (str): The list, relative to ``data_root``.
        num_classes (int, optional): C; the classes are named by their labels. Required unless
            ``metainfo.classes`` names them.
        **kwargs: As in mmengine's ``BaseDataset``; ``data_prefix["img"]`` is the folder of the
            images, relative to ``data_root``.

    Raises:
        UserError: If the list or its first image is missing, or a line is invalid.

    Example:
        >>> ImageListDataset(
        ...     "ImageNet_LT_train.txt", 1000, data_root="data/imagenet_lt"
        ... )  # doctest: +SKIP
    """

    def __init__(self, ann_file: str, num_classes: int | None = None, **kwargs) -> None:
        self.num_classes = num_classes
        kwargs.setdefault("data_prefix", dict(img=""))
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the list: ``img_path`` and ``gt_label`` of each image."""
        try:
            with open(self.ann_file, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UserError(
                f"{osp.abspath(self.ann_file)}: the list of images cannot be read ({reason}); put "
                "the published list there (see docs/classification.md), or correct 'ann_file'."
            ) from None
        data_list = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise UserError(
                    f"{self.ann_file}: line {number} is {line[:60]!r}, not a path and a label; "
                    "correct it."
                )
            if osp.isabs(path) or ".." in path.split("/"):
                raise UserError(
                    f"{self.ann_file}: line {number} names {path!r}, outside the image folder; "
                    "give a path below data_prefix['img']."
                )
            path = osp.join(self.data_prefix.get("img", ""), path)
            data_list.append(dict(img_path=path, gt_label=int(label)))
        if self._metainfo.get("classes") is None:
            if self.num_classes is None:
                raise UserError(
                    f"{self.ann_file}: a list names no classes; set 'num_classes' of the dataset."
                )
            self._metainfo["classes"] = tuple(str(label) for label in range(self.num_classes))
        self._check_labels([info["gt_label"] for info in data_list], self.ann_file)
        if not osp.isfile(data_list[0]["img_path"]):
            raise UserError(
                f"{osp.abspath(data_list[0]['img_path'])}: no such image, though {self.ann_file} "
                "lists it; put the images there (see docs/classification.md), or correct "
                "'data_prefix'."
            )
        return data_list


@DATASETS.register_module()
class ImageFolderDataset(LabelledImages):
    """Images in one folder per class, at any depth below it; labels are in the order of the names.

    Args:
        data_root (str): Folder of the folders.
        **kwargs: As in mmengine's ``BaseDataset``; ``metainfo.classes`` sets the classes and their
            order, for a validation set that lacks a class of the training set.

    Raises:
        UserError: If the folder is missing or has no images.

    Example:
        >>> ImageFolderDataset(data_root="data/flowers/train")  # doctest: +SKIP
    """

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the files: ``img_path`` and ``gt_label`` of each image."""
        try:
            folders = sorted(entry.name for entry in os.scandir(self.data_root) if entry.is_dir())
        except OSError as error:
            raise UserError(
                f"{osp.abspath(self.data_root)}: the image folder cannot be read "
                f"({error.strerror}); put one folder of images per class there, or correct "
                "'data_root'."
            ) from None
        classes = self._metainfo.get("classes") or folders
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise UserError(
                f"{osp.join(self.data_root, unknown[0])}: 'metainfo.classes' names no such class; "
                "add it there, or move the folder away."
            )
        self._metainfo["classes"] = tuple(classes)
        data_list = []
        for label, name in enumerate(classes):
            folder = osp.join(self.data_root, name)
            files = scandir(folder, _IMAGE_SUFFIXES, recursive=True, case_sensitive=False)
            for file in sorted(files) if name in folders else []:
                data_list.append(dict(img_path=osp.join(folder, file), gt_label=label))
        self._check_labels([info["gt_label"] for info in data_list], self.data_root)
        return data_list
