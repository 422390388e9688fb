"""The content of an annotation file as arrays, which can lie in a file that all processes map.

Glossary:
    I: images, in the order of the file.
    K: categories, sorted by id.
    A: annotations, sorted by image and within an image in the order of the file.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np


@dataclass(frozen=True, eq=False)
class AnnotationColumns:
    """An annotation file in LVIS or COCO format as columns.

    Images and categories are referred to by position. Arrays ``..._start``, int64 of shape
    (I + 1,), say where the part of each image begins: that of image i is from element i up to
    element i + 1 (exclusive).

    Args:
        federated (bool): Whether images name categories that are verified absent or not
            exhaustively annotated (LVIS), or every category was looked for in each image (COCO).
        category_name (tuple[str]): K names.
        category_frequency (tuple): The field ``frequency`` of each category as it stands in the
            file ("r", "c" or "f" in LVIS), None where it is missing; K values.
        category_id (np.ndarray): int64 of shape (K,), sorted.
        image_id (np.ndarray): int64 of shape (I,).
        image_size (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        path_start (np.ndarray): Into ``path_text``.
        path_text (np.ndarray): Paths below the image folder, UTF-8, uint8.
        negative_start (np.ndarray): Into ``negative``.
        negative (np.ndarray): Categories verified absent (``neg_category_ids``), int32.
        not_exhaustive_start (np.ndarray): Into ``not_exhaustive``.
        not_exhaustive (np.ndarray): Categories of which instances may be unannotated
            (``not_exhaustive_category_ids``), int32.
        annotation_start (np.ndarray): Into the arrays below.
        annotation_id (np.ndarray): int64 of shape (A,).
        category (np.ndarray): int32 of shape (A,).
        box (np.ndarray): x, y, width, height in pixels, float64 of shape (A, 4), finite.
        area (np.ndarray): In square pixels, float64 of shape (A,), finite.
        crowd (np.ndarray): Whether ``iscrowd`` is set, bool of shape (A,).
        ignored (np.ndarray): Whether ``ignore`` is set, bool of shape (A,).
        segmentation_range (np.ndarray): First and last (exclusive) byte of each annotation's
            ``segmentation_text``, int64 of shape (A, 2).
        segmentation_text (np.ndarray): JSON of the segmentations, uint8.
    """

    federated: bool
    category_name: tuple[str, ...]
    category_frequency: tuple[Any, ...]
    category_id: np.ndarray
    image_id: np.ndarray
    image_size: np.ndarray
    path_start: np.ndarray
    path_text: np.ndarray
    negative_start: np.ndarray
    negative: np.ndarray
    not_exhaustive_start: np.ndarray
    not_exhaustive: np.ndarray
    annotation_start: np.ndarray
    annotation_id: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    segmentation_range: np.ndarray
    segmentation_text: np.ndarray

    def __deepcopy__(self, memo: dict) -> "AnnotationColumns":
        return self  # immutable

    def about(self) -> dict[str, Any]:
        """All fields that are no arrays, by name; JSON can hold them."""
        names = ("federated", "category_name", "category_frequency")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @property
    def num_images(self) -> int:
        """Number of images, I."""
        return len(self.image_id)

    @property
    def annotation_image(self) -> np.ndarray:
        """The image of each annotation, int64 of shape (A,)."""
        return np.repeat(np.arange(self.num_images), np.diff(self.annotation_start))

    def path(self, image: int) -> str:
        """Path of an image below the image folder."""
        start, end = self.path_start[image : image + 2].tolist()
        return self.path_text[start:end].tobytes().decode("utf-8", "surrogatepass")

    def negatives(self, image: int) -> np.ndarray:
        """Categories verified absent from an image, int32."""
        start, end = self.negative_start[image : image + 2].tolist()
        return self.negative[start:end]

    def annotations(self, image: int) -> slice:
        """Which annotations are those of an image."""
        return slice(*self.annotation_start[image : image + 2].tolist())

    def segmentation(self, annotation: int) -> Any:
        """What the file holds as ``segmentation`` of the annotation at a position.

        Polygons or RLE unless the file is wrong, which is not checked
        (:func:`mmdet_eql.annotations.segmentation.segmentation_problem`); None if it is empty.
        """
        start, end = self.segmentation_range[annotation].tolist()
        text = self.segmentation_text[start:end].tobytes()
        try:
            return msgspec.json.decode(text) or None
        except (msgspec.DecodeError, ValueError):
            # Python's own decoder also reads NaN and numbers of any size.
            return json.loads(text.decode("utf-8", "replace")) or None


_ARRAYS = tuple(field.name for field in fields(AnnotationColumns) if field.type is np.ndarray)
