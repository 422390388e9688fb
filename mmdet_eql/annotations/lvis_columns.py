"""The content of an annotation file as arrays, of which an image's part is looked up when needed.

A million annotations as Python objects take gigabytes and a minute; as columns they take the bytes
of their numbers, and can lie in a file that every process maps.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from typing import Any, Protocol

import numpy as np


class ImageRecord(Protocol):
    """What is kept of an image of an annotation file, besides its path."""

    id: int
    height: int
    width: int
    neg_category_ids: Sequence[int]


class AnnotationRecord(Protocol):
    """What is kept of an annotation of an annotation file, besides its segmentation."""

    image_id: int
    category_id: int
    bbox: Sequence[float]
    area: float
    iscrowd: Any
    ignore: Any


@dataclass(frozen=True, eq=False)
class LVISColumns:
    """An annotation file as columns.

    Images are in the order of the file; annotations are sorted by image and within an image in the
    order of the file. An array ``first_...`` or ``..._start`` has one element more than there are
    parts: part i is from element i up to element i + 1 (exclusive). K is the number of categories,
    I of images, A of annotations.

    Args:
        categories (tuple[tuple[int, str]]): Id and name of each category, K of them.
        image_id (np.ndarray): int64 of shape (I,).
        image_size (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        path_start (np.ndarray): Of an image's path in ``path_text``, int64 of shape (I + 1,).
        path_text (np.ndarray): Paths below the image folder, UTF-8, uint8.
        first_negative (np.ndarray): Of an image in ``negative``, int64 of shape (I + 1,).
        negative (np.ndarray): Positions of the categories that are verified absent, int32.
        first_annotation (np.ndarray): Of an image, int64 of shape (I + 1,).
        category (np.ndarray): Positions of the annotations' categories, int32 of shape (A,).
        box (np.ndarray): x, y, width, height in pixels, float64 of shape (A, 4).
        area (np.ndarray): In square pixels, float64 of shape (A,).
        crowd (np.ndarray): Whether ``iscrowd`` is set, bool of shape (A,).
        ignored (np.ndarray): Whether ``ignore`` is set, bool of shape (A,).
        polygons (np.ndarray): First and last (exclusive) of an annotation's polygons, which are in
            the order of the file, int64 of shape (A, 2).
        first_point (np.ndarray): Of a polygon in ``points``, int64.
        points (np.ndarray): x1, y1, x2, y2, ... in pixels, float64.
        text_of (np.ndarray): Sorted annotations whose segmentation is not polygons, int64.
        text_start (np.ndarray): Of the JSON of their segmentations in ``text``, int64.
        text (np.ndarray): UTF-8, uint8.
    """

    categories: tuple[tuple[int, str], ...]
    image_id: np.ndarray
    image_size: np.ndarray
    path_start: np.ndarray
    path_text: np.ndarray
    first_negative: np.ndarray
    negative: np.ndarray
    first_annotation: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    polygons: np.ndarray
    first_point: np.ndarray
    points: np.ndarray
    text_of: np.ndarray
    text_start: np.ndarray
    text: np.ndarray

    def __deepcopy__(self, memo: dict) -> "LVISColumns":
        # Nobody can change it.
        return self

    @property
    def num_images(self) -> int:
        """Number of images of the file."""
        return len(self.image_id)

    @property
    def annotation_image(self) -> np.ndarray:
        """The image of each annotation, int64 of shape (A,)."""
        return np.repeat(np.arange(self.num_images), np.diff(self.first_annotation))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def path(self, image: int) -> str:
        """Path of an image below the image folder."""
        start, end = self.path_start[image : image + 2].tolist()
        return self.path_text[start:end].tobytes().decode("utf-8", "surrogatepass")

    def negatives(self, image: int) -> np.ndarray:
        """Positions of the categories that are verified absent from an image."""
        start, end = self.first_negative[image : image + 2].tolist()
        return self.negative[start:end]

    def segmentations(self, image: int) -> list:
        """The segmentation of each annotation of an image.

        Args:
            image (int): Position of the image.

        Returns:
            list: For each annotation what its ``segmentation`` holds, which should be a list of
            polygons or RLE; None for nothing, or an empty value.
        """
        start, end = self.first_annotation[image : image + 2].tolist()
        segmentations = []
        for first, last in self.polygons[start:end].tolist():
            bounds = self.first_point[first : last + 1].tolist() if first < last else []
            segmentations.append(
                [self.points[low:high].tolist() for low, high in pairwise(bounds)] or None
            )
        low, high = np.searchsorted(self.text_of, (start, end)).tolist()
        for number in range(low, high):
            first, last = self.text_start[number : number + 2].tolist()
            segmentation = json.loads(self.text[first:last].tobytes())
            segmentations[int(self.text_of[number]) - start] = segmentation
        return segmentations


#: Names of the arrays of :class:`LVISColumns`.
ARRAYS = tuple(field.name for field in fields(LVISColumns) if field.name != "categories")


class ColumnsBuilder:
    """Collects the records of an annotation file, piece by piece.

    A piece becomes arrays at once, so that the Python objects of no more than one exist. The
    records are taken to be sound but for references to images and categories, which
    :meth:`finish` checks.

    Args:
        categories (Iterable[tuple[int, str]]): Id and name of each category.
    """

    def __init__(self, categories: Iterable[tuple[int, str]]) -> None:
        self._categories = tuple(categories)
        self._pieces: dict[str, list[np.ndarray]] = {}
        self._num_annotations = 0

    def add_images(self, images: Sequence[ImageRecord], paths: Sequence[str]) -> None:
        """Add the next images of the file, with their paths below the image folder."""
        encoded = [path.encode("utf-8", "surrogatepass") for path in paths]
        self._add("image_id", [image.id for image in images], np.int64)
        self._add("image_size", [(image.height, image.width) for image in images], np.int64)
        self._add("path_length", [len(path) for path in encoded], np.int64)
        self._add_bytes("path_text", b"".join(encoded))
        self._add("num_negatives", [len(image.neg_category_ids) for image in images], np.int64)
        self._add_chain("negative_id", [image.neg_category_ids for image in images], np.int64)

    def add_annotations(
        self,
        annotations: Sequence[AnnotationRecord],
        segmentations: Sequence[list[list[float]] | bytes | None],
    ) -> None:
        """Add the next annotations of the file.

        Args:
            annotations (Sequence[AnnotationRecord]): So many annotations.
            segmentations (Sequence): Of each its polygons, the JSON of a segmentation that is not
                lists of numbers, or None if it has none.
        """
        of_each = [one if isinstance(one, list) else () for one in segmentations]
        texts = [
            (number, segmentation)
            for number, segmentation in enumerate(segmentations, self._num_annotations)
            if isinstance(segmentation, bytes)
        ]
        polygons = list(chain.from_iterable(of_each))
        self._add("annotation_image_id", [ann.image_id for ann in annotations], np.int64)
        self._add("category_id", [ann.category_id for ann in annotations], np.int64)
        self._add_chain("box", [ann.bbox for ann in annotations], np.float64)
        self._add("area", [ann.area for ann in annotations], np.float64)
        self._add("crowd", [bool(ann.iscrowd) for ann in annotations], bool)
        self._add("ignored", [bool(ann.ignore) for ann in annotations], bool)
        self._add("num_polygons", [len(one) for one in of_each], np.int64)
        self._add("num_points", [len(polygon) for polygon in polygons], np.int64)
        self._add_chain("points", polygons, np.float64)
        self._add("text_of", [number for number, _ in texts], np.int64)
        self._add("text_length", [len(text) for _, text in texts], np.int64)
        self._add_bytes("text", b"".join(text for _, text in texts))
        self._num_annotations += len(annotations)

    def finish(self) -> LVISColumns:
        """Put the pieces together.

        Returns:
            LVISColumns: The columns.

        Raises:
            ValueError: If a record refers to an image or category that is not there.
        """
        category_ids = np.array([identifier for identifier, _ in self._categories], dtype=np.int64)
        image_id = self._column("image_id", np.int64)
        image = _positions(self._column("annotation_image_id", np.int64), image_id)
        # Sorting keeps the order of equals. Polygons stay where they are; only the references to
        # them move.
        order = np.argsort(image, kind="stable")
        first_polygon = _starts(self._column("num_polygons", np.int64))
        text_of, texts = self._sorted_texts(order)
        category = _positions(self._column("category_id", np.int64), category_ids)
        return LVISColumns(
            categories=self._categories,
            image_id=image_id,
            image_size=self._column("image_size", np.int64).reshape(-1, 2),
            path_start=_starts(self._column("path_length", np.int64)),
            path_text=self._column("path_text", np.uint8),
            first_negative=_starts(self._column("num_negatives", np.int64)),
            negative=_positions(self._column("negative_id", np.int64), category_ids).astype(
                np.int32
            ),
            first_annotation=_starts(np.bincount(image, minlength=len(image_id))),
            category=category[order].astype(np.int32),
            box=self._column("box", np.float64).reshape(-1, 4)[order],
            area=self._column("area", np.float64)[order],
            crowd=self._column("crowd", bool)[order],
            ignored=self._column("ignored", bool)[order],
            polygons=np.stack([first_polygon[:-1], first_polygon[1:]], axis=1)[order],
            first_point=_starts(self._column("num_points", np.int64)),
            points=self._column("points", np.float64),
            text_of=text_of,
            text_start=_starts(np.array([len(text) for text in texts], dtype=np.int64)),
            text=np.concatenate([np.empty(0, dtype=np.uint8), *texts]),
        )

    def _sorted_texts(self, order: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Sorted new places of the annotations that have a text, and their texts."""
        place_of = np.empty_like(order)
        place_of[order] = np.arange(len(order))
        text_of = place_of[self._column("text_of", np.int64)]
        start = _starts(self._column("text_length", np.int64)).tolist()
        text = self._column("text", np.uint8)
        sequence = np.argsort(text_of)
        return text_of[sequence], [text[start[i] : start[i + 1]] for i in sequence.tolist()]

    def _add(self, name: str, values: list, dtype: Any) -> None:
        self._pieces.setdefault(name, []).append(np.array(values, dtype=dtype))

    def _add_chain(self, name: str, lists: Sequence[Sequence], dtype: Any) -> None:
        count = sum(map(len, lists))
        array = np.fromiter(chain.from_iterable(lists), dtype=dtype, count=count)
        self._pieces.setdefault(name, []).append(array)

    def _add_bytes(self, name: str, content: bytes) -> None:
        self._pieces.setdefault(name, []).append(np.frombuffer(content, dtype=np.uint8))

    def _column(self, name: str, dtype: Any) -> np.ndarray:
        """All of a column. Its pieces are let go."""
        pieces = self._pieces.pop(name, [])
        shape = pieces[0].shape[1:] if pieces else ()
        column = np.empty((sum(map(len, pieces)), *shape), dtype=dtype)
        at = 0
        while pieces:
            piece = pieces.pop(0)
            column[at : at + len(piece)] = piece
            at += len(piece)
        return column


def from_arrays(categories: Iterable[Sequence], arrays: Mapping[str, np.ndarray]) -> LVISColumns:
    """Columns from what :meth:`LVISColumns.arrays` gives."""
    return LVISColumns(
        tuple((identifier, name) for identifier, name in categories),
        **{name: arrays[name] for name in ARRAYS},
    )


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Position of each value among unique ids."""
    order = np.argsort(ids)
    if not len(ids):
        if len(values):
            raise ValueError("a reference to nothing")
        return np.empty(0, dtype=np.int64)
    at = np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)
    found = order[at]
    if not np.array_equal(ids[found], values):
        raise ValueError("a reference to nothing")
    return found
