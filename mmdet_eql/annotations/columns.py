"""The content of an annotation file as arrays, which can lie in a file that all processes map.

Glossary:
    I: images, in the order of the file.
    K: categories, sorted by id.
    A: annotations, sorted by image and within an image in the order of the file.
"""

import os.path as osp
from dataclasses import dataclass, fields
from itertools import compress
from typing import Any

import numpy as np

from mmdet_eql.annotations.segmentation import PARTLY, WHOLE, decode_segmentation, usable_part


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
        left_out_categories (tuple[str]): Names of categories of the file that are none here: they
            are the supercategory of another one and have no annotation.
        category_id (np.ndarray): int64 of shape (K,), sorted.
        image_id (np.ndarray): int64 of shape (I,).
        image_size (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        path_start (np.ndarray): Into ``path_text``.
        path_text (np.ndarray): Paths below the image folder, UTF-8, uint8: ``file_name`` or, where
            it is missing, the last folder and name of ``coco_url``.
        url_path_start (np.ndarray): Into ``url_path_text``.
        url_path_text (np.ndarray): The latter, for images that have both fields, UTF-8, uint8.
        negative_start (np.ndarray): Into ``negative``.
        negative (np.ndarray): Categories verified absent (``neg_category_ids``), int32.
        not_exhaustive_start (np.ndarray): Into ``not_exhaustive``.
        not_exhaustive (np.ndarray): Categories of which instances may be unannotated
            (``not_exhaustive_category_ids``), int32.
        annotation_start (np.ndarray): Into the arrays below.
        annotation_id (np.ndarray): int64 of shape (A,).
        category (np.ndarray): int32 of shape (A,).
        box (np.ndarray): x, y, width, height in pixels, float64 of shape (A, 4), finite.
        area (np.ndarray): In square pixels, float64 of shape (A,), finite. It is width x height
            where the field is missing or 0.
        area_filled (np.ndarray): Where that is so, bool of shape (A,).
        crowd (np.ndarray): Whether ``iscrowd`` is set, bool of shape (A,).
        ignored (np.ndarray): Whether ``ignore`` is set, bool of shape (A,).
        segmentation_range (np.ndarray): First and last (exclusive) byte of each annotation's
            ``segmentation_text``, int64 of shape (A, 2).
        segmentation_text (np.ndarray): JSON of the segmentations, uint8.
        segmentation_state (np.ndarray): Whether they can be used, uint8 of shape (A,); see
            :func:`mmdet_eql.annotations.segmentation.segmentation_states`.
    """

    federated: bool
    category_name: tuple[str, ...]
    category_frequency: tuple[Any, ...]
    left_out_categories: tuple[str, ...]
    category_id: np.ndarray
    image_id: np.ndarray
    image_size: np.ndarray
    path_start: np.ndarray
    path_text: np.ndarray
    url_path_start: np.ndarray
    url_path_text: np.ndarray
    negative_start: np.ndarray
    negative: np.ndarray
    not_exhaustive_start: np.ndarray
    not_exhaustive: np.ndarray
    annotation_start: np.ndarray
    annotation_id: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    area_filled: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    segmentation_range: np.ndarray
    segmentation_text: np.ndarray
    segmentation_state: np.ndarray

    def __deepcopy__(self, memo: dict) -> "AnnotationColumns":
        return self  # immutable

    def about(self) -> dict[str, Any]:
        """All fields that are no arrays, by name; JSON can hold them."""
        return {name: getattr(self, name) for name in _OTHERS}

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

    def file_name(self, image: int) -> str:
        """The ``file_name`` of an image or, where it is missing, the path of its ``coco_url``."""
        start, end = self.path_start[image : image + 2].tolist()
        return _decode(self.path_text[start:end].tobytes())

    def path(self, image: int, folder: str | None = None) -> str:
        """Path of an image below the image folder.

        Of an image with both ``file_name`` and ``coco_url``, it is the former's if ``folder`` has
        such a file, else the latter's. An absolute path outside of ``folder`` is returned as it is.
        """
        path = self.file_name(image)
        if self.url_path_start[image] < self.url_path_start[image + 1] and not (
            folder is not None and osp.isfile(osp.join(folder, path))
        ):
            start, end = self.url_path_start[image : image + 2].tolist()
            path = _decode(self.url_path_text[start:end].tobytes())
        if folder is not None and osp.isabs(path):
            for root in (osp.abspath(folder), osp.realpath(folder)):
                if path.startswith(osp.join(root, "")):
                    return osp.relpath(path, root)
        return path

    def is_object(self) -> np.ndarray:
        """Whether evaluation counts annotations: something can match their box, bool of (A,)."""
        return (self.box[:, 2:] > 0).all(axis=1) & (self.area > 0)

    def negatives(self, image: int) -> np.ndarray:
        """Categories verified absent from an image, int32."""
        start, end = self.negative_start[image : image + 2].tolist()
        return self.negative[start:end]

    def annotations(self, image: int) -> slice:
        """Which annotations are those of an image."""
        return slice(*self.annotation_start[image : image + 2].tolist())

    def segmentation(self, annotation: int) -> Any:
        """The polygons or the RLE of the annotation at a position; None if it has none to use."""
        return self.segmentations(np.array([annotation]))[0]

    def segmentations(self, annotations: np.ndarray | slice) -> list:
        """Those of the annotations at some positions."""
        text, states = memoryview(self.segmentation_text), self.segmentation_state[annotations]
        usable = [state in (WHOLE, PARTLY) for state in states.tolist()]
        ranges = compress(self.segmentation_range[annotations].tolist(), usable)
        texts = [text[start:end] for start, end in ranges]
        # Decoding each by itself takes longer.
        decoded = iter(decode_segmentation(b"[%b]" % b",".join(texts)))
        return [usable_part(next(decoded)) if is_usable else None for is_usable in usable]

    def given_segmentation(self, annotation: int) -> Any:
        """What the file holds as ``segmentation`` of the annotation at a position."""
        start, end = self.segmentation_range[annotation].tolist()
        return decode_segmentation(self.segmentation_text[start:end].tobytes())


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


_ARRAYS = tuple(field.name for field in fields(AnnotationColumns) if field.type is np.ndarray)
_OTHERS = tuple(field.name for field in fields(AnnotationColumns) if field.name not in _ARRAYS)
