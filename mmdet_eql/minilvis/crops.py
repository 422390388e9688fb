"""Crops of MiniLVIS objects: a rendered classification set.

Objects are cut out of MiniLVIS scenes that hold equally many of every category, with a margin. The
training crops are balanced; a config cuts them to a long tail. The classes are in MiniLVIS's order
of frequency: each of the first quarter looks like three later ones.

File: ``train_images`` and ``val_images`` (BGR, uint8 of shape (M, S, S, 3)), ``train_labels`` and
``val_labels`` (int64 of shape (M,)) and ``classes`` (C names), as NumPy's ``.npz``.
"""

import os
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from mmdet_eql.minilvis.config import MiniLVISConfig
from mmdet_eql.minilvis.layout import SUPERSAMPLING
from mmdet_eql.minilvis.planning import plan_dataset
from mmdet_eql.minilvis.rendering import Scene, render_scene
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

#: Side of the crop over the longer side of the visible part of the object.
MARGIN = 1.25
#: Distinct categories in a scene of 7 to 12 objects.
_CATEGORIES_PER_SCENE = 5


@dataclass(frozen=True)
class CropsConfig:
    """Options of the crops: C (6 to 1000) classes, the crops of each (at least 10), and their side
    in px (at least 8); ``confusability`` and ``seed`` are those of :class:`MiniLVISConfig`.

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
        """Return a MiniLVIS with enough objects of each category, all annotated."""
        train, val = (
            # A few scenes more than needed, since plan_dataset() rounds.
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


def make_crops(path: str | os.PathLike, config: CropsConfig) -> None:
    """Render the crops and write the ``.npz`` file atomically.

    Raises:
        UserError: If the file cannot be written.
    """
    content = {"classes": np.array(class_names(config))}
    with atomic_write(path) as unfinished:
        for split in ("train", "val"):
            images, labels = render_crops(config, split)
            content |= {f"{split}_images": images, f"{split}_labels": labels}
        with open(unfinished, "wb") as file:
            np.savez(file, **content)


def class_names(config: CropsConfig) -> list[str]:
    """Return C names in the order of the labels, the most frequent category of MiniLVIS first."""
    categories = plan_dataset(config.scenes()).categories
    return [item.name for item in sorted(categories, key=lambda item: item.rank)]


def render_crops(config: CropsConfig, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Render the images and labels of one split, ``"train"`` or ``"val"``, as in the file."""
    scenes = config.scenes()
    dataset = plan_dataset(scenes)
    wanted = np.full(config.num_classes, getattr(config, f"{split}_per_class"))
    images, labels = [], []
    for plan in tqdm(dataset.images[split], f"{split} scenes", unit="image", disable=None):
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
    """Cut out an object with its surroundings, uint8 of shape (size, size, 3)."""
    seen = (scene.owner == number).view(np.uint8)
    left, top, width, height = (v / SUPERSAMPLING for v in cv2.boundingRect(seen))
    scale = size / (MARGIN * max(width, height))
    centre = left + width / 2, top + height / 2
    # From pixel corners in the scene to those in the crop; cv2 counts from pixel centres.
    shift = [size / 2 - scale * c + (scale - 1) / 2 for c in centre]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(
        scene.image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
