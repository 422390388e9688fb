"""Crops of MiniLVIS objects: a classification set that is rendered here.

MiniLVIS scenes with equally many objects of every category are drawn, and each object is cut out
with a margin, so that its surroundings, occluders and clutter are in the crop. The training crops
are balanced; a config cuts them to the long tail that it wants. The classes are in MiniLVIS's order
of frequency: each of the first quarter is the look-alike of three later ones.

File: ``train_images`` and ``val_images`` (BGR, uint8 of shape (M, S, S, 3)), ``train_labels`` and
``val_labels`` (int64 of shape (M,)) and ``classes`` (C names), as NumPy's ``.npz``.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmdet.registry import DATASETS
from tqdm import tqdm

from mmdet_eql.classification.datasets.base import ImagesInMemory
from mmdet_eql.minilvis import MiniLVISConfig
from mmdet_eql.minilvis.layout import SUPERSAMPLING
from mmdet_eql.minilvis.planning import plan_dataset
from mmdet_eql.minilvis.rendering import Scene, render_scene
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

#: Side of the square that is cut out, as a multiple of the longer side of what is seen of the
#: object.
MARGIN = 1.25
#: Distinct categories in a scene of 7 to 12 objects.
_CATEGORIES_PER_SCENE = 5


@dataclass(frozen=True)
class CropsConfig:
    """Options of the crops.

    Args:
        num_classes (int): C, 6 to 1000.
        train_per_class (int): Number of training crops of each class.
        val_per_class (int): Number of validation crops of each class.
        crop_size (int): Side of the crops in px.
        confusability (float): See :class:`MiniLVISConfig`.
        seed (int): See :class:`MiniLVISConfig`.

    Raises:
        UserError: If an option is out of range.
    """

    num_classes: int = 100
    train_per_class: int = 300
    val_per_class: int = 30
    crop_size: int = 32
    confusability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("train_per_class", 10), ("val_per_class", 10), ("crop_size", 8)):
            if getattr(self, name) < low:
                raise UserError(
                    f"MiniLVIS crops: {name}={getattr(self, name)} must be at least {low}."
                )
        self.scenes()

    def scenes(self) -> MiniLVISConfig:
        """MiniLVIS with enough objects of each category, all of them annotated."""
        train, val = (
            # A few more than it takes, as what is planned is rounded.
            -(-per_class * self.num_classes // _CATEGORIES_PER_SCENE) + 4
            for per_class in (self.train_per_class, self.val_per_class)
        )
        return MiniLVISConfig(
            num_categories=self.num_classes,
            num_train_images=train,
            num_val_images=val,
            categories_per_image=_CATEGORIES_PER_SCENE,
            steepness=0,
            label_rate=1,
            confusability=self.confusability,
            seed=self.seed,
        )


def make_crops(
    path: str | os.PathLike, config: CropsConfig | None = None, progress: bool = True
) -> None:
    """Render the crops into a file, whole or not at all.

    Args:
        path (str | os.PathLike): File to write, ``.npz``.
        config (CropsConfig, optional): Options; the defaults if None.
        progress (bool): Whether to show a progress bar.

    Raises:
        UserError: If the file cannot be written.
    """
    config = config or CropsConfig()
    content = {"classes": np.array(class_names(config))}
    with atomic_write(path) as unfinished:
        for split in ("train", "val"):
            content[f"{split}_images"], content[f"{split}_labels"] = render_crops(
                config, split, progress
            )
        with open(unfinished, "wb") as file:
            np.savez(file, **content)


def class_names(config: CropsConfig) -> list[str]:
    """C names in the order of the labels: the most frequent category of MiniLVIS first."""
    categories = plan_dataset(config.scenes()).categories
    return [item.name for item in sorted(categories, key=lambda item: item.rank)]


def render_crops(
    config: CropsConfig, split: str, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Render the crops of one split.

    Args:
        config (CropsConfig): Options.
        split (str): ``"train"`` or ``"val"``.
        progress (bool): Whether to show a progress bar.

    Returns:
        tuple[np.ndarray, np.ndarray]: Images, BGR, uint8 of shape (M, S, S, 3); labels, int64 of
        shape (M,), each as often as asked for.
    """
    scenes = config.scenes()
    dataset = plan_dataset(scenes)
    wanted = np.full(
        config.num_classes, config.train_per_class if split == "train" else config.val_per_class
    )
    images, labels = [], []
    for plan in tqdm(
        dataset.images[split], desc=f"{split} scenes", unit="image", disable=not progress
    ):
        scene = render_scene(plan, dataset.categories, scenes)
        for number, category_id in enumerate(plan.category_ids, start=1):
            label = dataset.categories[category_id - 1].rank - 1
            if wanted[label]:
                wanted[label] -= 1
                images.append(_cut_out(scene, number, config.crop_size))
                labels.append(label)
    if wanted.any():
        raise RuntimeError(f"the scenes of {config} hold too few objects: {wanted.tolist()}")
    return np.stack(images), np.array(labels)


def _cut_out(scene: Scene, number: int, size: int) -> np.ndarray:
    """An object with what surrounds it, uint8 of shape (size, size, 3)."""
    seen = (scene.owner == number).view(np.uint8)
    left, top, width, height = (v / SUPERSAMPLING for v in cv2.boundingRect(seen))
    scale = size / (MARGIN * max(width, height))
    centre = left + width / 2, top + height / 2
    # Of a pixel's corner (x, y) in the scene to that in the crop; cv2 counts from pixel centres.
    shift = [size / 2 - scale * c + (scale - 1) / 2 for c in centre]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(
        scene.image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


@DATASETS.register_module()
class MiniLVISCrops(ImagesInMemory):
    """The crops that ``tools/datasets/make_minilvis_crops.py`` renders.

    Args:
        ann_file (str): The ``.npz`` file, relative to ``data_root``.
        split (str): ``"train"`` or ``"val"``.
        imbalance_factor (float, optional): Size of the largest class over that of the smallest;
            None keeps all crops.
        subset_seed (int): Seed of the choice of crops.
        **kwargs: As in mmengine's ``BaseDataset``.

    Raises:
        UserError: If the file is missing or damaged.

    Example:
        >>> MiniLVISCrops("data/minilvis_crops.npz", "train")  # doctest: +SKIP
    """

    def __init__(self, ann_file: str, split: str, **kwargs) -> None:
        if split not in ("train", "val"):
            raise UserError(f"MiniLVISCrops: split is {split!r}; choose 'train' or 'val'.")
        self.split = split
        super().__init__(ann_file=ann_file, **kwargs)

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """See the base class."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise UserError(
                f"{path.absolute()}: no such file; make it by "
                f"`python tools/datasets/make_minilvis_crops.py {path}`."
            )
        try:
            images, labels, classes = _read(path, self.split)
        except Exception as error:  # a damaged archive ends in any of zipfile's, zlib's, NumPy's
            raise UserError(
                f"{path}: is not a whole file of MiniLVIS crops "
                f"({' '.join(str(error).split())}); make it again by "
                f"`python tools/datasets/make_minilvis_crops.py --force {path}`."
            ) from None
        return images, labels, classes.tolist()


def _read(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        images, labels = file[f"{split}_images"], file[f"{split}_labels"]
        classes = file["classes"]
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(f"{split}_images and {split}_labels do not fit together")
    return images, labels, classes
