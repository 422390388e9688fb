"""The content of an annotation file as arrays.

A million annotations as Python objects take gigabytes and a minute; as columns they take the bytes
of their numbers, and can lie in a file that all processes map.

Glossary:
    I: images, in the order of the file.
    K: categories, sorted by id.
    A: annotations, sorted by image and within an image in the order of the file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np


@dataclass(frozen=True, eq=False)
class AnnotationColumns:
    """An annotation file in LVIS or COCO format as columns.

    Images and categories are referred to by position. Where parts differ in length, an array
    ``..._start`` has one element more than there are parts: part i is from element i up to element
    i + 1 (exclusive).

    Args:
        federated (bool): Whether images name categories that are verified absent or not
            exhaustively annotated, as LVIS's do; if not, every category was looked for in every
            image, as in COCO.
        category_name (tuple[str]): K names.
        category_frequency (tuple): The field ``frequency`` of each category as it stands in the
            file ("r", "c" or "f" in LVIS), None where it is missing; K values.
        category_id (np.ndarray): int64 of shape (K,), sorted.
        image_id (np.ndarray): int64 of shape (I,).
        image_size (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        path_start (np.ndarray): Of each image in ``path_text``, int64 of shape (I + 1,).
        path_text (np.ndarray): Paths below the image folder, UTF-8, uint8.
        negative_start (np.ndarray): Of each image in ``negative``, int64 of shape (I + 1,).
        negative (np.ndarray): Categories verified absent (``neg_category_ids``), int32.
        not_exhaustive_start (np.ndarray): Of each image in ``not_exhaustive``, int64 of shape
            (I + 1,).
        not_exhaustive (np.ndarray): Categories of which instances may be unannotated
            (``not_exhaustive_category_ids``), int32.
        annotation_start (np.ndarray): Of each image in the arrays below, int64 of shape (I + 1,).
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

    @classmethod
    def from_arrays(cls, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
        """Columns from what :meth:`about` and :meth:`arrays` return."""
        return cls(
            federated=about["federated"],
            category_name=tuple(about["category_name"]),
            category_frequency=tuple(about["category_frequency"]),
            **{name: arrays[name] for name in _ARRAYS},
        )

    def about(self) -> dict[str, Any]:
        """All fields that are no arrays, by name; JSON can hold them."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}

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
        """What the file holds as the ``segmentation`` of an annotation.

        Args:
            annotation (int): Position of the annotation.

        Returns:
            Any: Polygons or RLE, unless the file is wrong: see
            :func:`mmdet_eql.annotations.segmentation.segmentation_problem`. None for nothing or an
            empty value.
        """
        start, end = self.segmentation_range[annotation].tolist()
        text = self.segmentation_text[start:end].tobytes()
        try:
            return msgspec.json.decode(text) or None
        except (msgspec.DecodeError, ValueError):
            # Python's own decoder also reads NaN and numbers of any size.
            return json.loads(text.decode("utf-8", "replace")) or None


_ARRAYS = tuple(field.name for field in fields(AnnotationColumns) if field.type is np.ndarray)
