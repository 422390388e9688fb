"""Reading an annotation file: :func:`read_annotations` is the one way from JSON to columns.

The file is decoded piece by piece into typed records. One that cannot be decoded so is read again
by :mod:`mmdet_eql.annotations.checks`, which says what is wrong with it, or finds nothing wrong.
"""

import json
import mmap
import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from mmdet_eql.annotations.box_format import refuse_other_boxes
from mmdet_eql.annotations.cache import cached_columns
from mmdet_eql.annotations.checks import FEDERATED_FIELDS, FLAGS, image_paths, load_lvis_json
from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.segmentation import segmentation_states
from mmdet_eql.utils.files import local_copy
from mmdet_eql.utils.json_pieces import (
    forget_pages,
    iterate_pieces,
    map_file,
    pause_garbage_collection,
)


class UndecodableError(Exception):
    """A file that :func:`decode_columns` leaves to the careful reader."""


class _Tables(msgspec.Struct):
    images: msgspec.Raw
    categories: msgspec.Raw
    annotations: msgspec.Raw


class _Category(msgspec.Struct):
    id: int
    name: str
    frequency: Any = None
    supercategory: Any = None


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int
    width: int
    neg_category_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    not_exhaustive_category_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    coco_url: str | None = None
    file_name: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: bool | int | float | str | None = False
    ignore: bool | int | float | str | None = False


_decode_images = msgspec.json.Decoder(list[_Image]).decode
_decode_annotations = msgspec.json.Decoder(list[_Annotation]).decode


def read_annotations(
    path: str, backend_args: dict | None = None, annotated: bool = True, cache: bool | str = True
) -> AnnotationColumns:
    """Read an annotation file in LVIS or COCO format, or its cache.

    Args:
        path (str): Path of the annotation file.
        backend_args (dict, optional): mmengine's file backend. Only local files have a cache.
        annotated (bool): Whether the field ``annotations`` is needed; LVIS's test images have none.
        cache (bool | str): Whether to use a cache, or its folder; see
            :func:`mmdet_eql.annotations.cache.cached_columns`.

    Raises:
        UserError: If the file cannot be read, is not JSON, is not in LVIS or COCO format, has an
            image outside the image folder, or boxes that are no x, y, width, height in pixels.

    Example:
        >>> columns = read_annotations("annotations/lvis_v1_val.json")  # doctest: +SKIP
        >>> columns.num_images, len(columns.category_id)  # doctest: +SKIP
        (19809, 1203)
    """

    def read_carefully() -> AnnotationColumns:
        return columns_of(load_lvis_json(path, backend_args, annotated), path)

    def read() -> AnnotationColumns:
        try:
            return decode_columns(local_path, path)
        except UndecodableError:
            return read_carefully()

    try:
        with local_copy(path, backend_args) as local_path:
            # Of a remote file this is a temporary copy.
            is_local = osp.abspath(local_path) == osp.abspath(path)
            columns = cached_columns(local_path, read, cache if is_local else False)
    except OSError:
        columns = read_carefully()
    refuse_other_boxes(columns, path)
    return columns


def decode_columns(path: str, name: str) -> AnnotationColumns:
    """Decode a valid local annotation file, which messages call ``name``.

    Raises:
        UndecodableError: If the file is not JSON, is not in LVIS or COCO format, or holds something
            unusual, such as ``NaN``.
        UserError: If an image lies outside the image folder.
        OSError: If the file cannot be read.
    """
    try:
        content = map_file(path)
        with pause_garbage_collection():
            tables = msgspec.json.decode(content, type=_Tables)
            return _build(
                msgspec.json.decode(tables.categories, type=list[_Category]),
                map(_decode_images, iterate_pieces(tables.images)),
                map(_decode_annotations, _forgetting(content, iterate_pieces(tables.annotations))),
                name,
            )
    except (msgspec.DecodeError, ValueError, OverflowError, KeyError, RecursionError) as error:
        raise UndecodableError(str(error)) from None


def columns_of(data: dict[str, Any], name: str) -> AnnotationColumns:
    """Turn what :func:`mmdet_eql.annotations.checks.load_lvis_json` returns into columns.

    Raises:
        UserError: If an image lies outside the image folder; messages call the file ``name``.
    """
    annotations = (
        {**record, "segmentation": json.dumps(record.get("segmentation")).encode()}
        for record in data["annotations"]
    )
    return _build(
        [_record(_Category, record) for record in data["categories"]],
        [[_record(_Image, record) for record in data["images"]]],
        [[_record(_Annotation, record) for record in annotations]],
        name,
    )


def _record(kind: type[msgspec.Struct], record: dict) -> Any:
    return kind(**{field: record[field] for field in kind.__struct_fields__ if field in record})


def _forgetting(content: mmap.mmap, pieces: Iterable[bytes]) -> Iterable[bytes]:
    for piece in pieces:
        yield piece
        forget_pages(content)


def _build(
    categories: list[_Category],
    image_pieces: Iterable[list[_Image]],
    annotation_pieces: Iterable[list[_Annotation]],
    name: str,
) -> AnnotationColumns:
    """Put records into columns. ValueError: if an id, a reference, a size or a box is invalid."""
    parts = _Parts()
    categories = sorted(categories, key=lambda category: category.id)

    num_federated_fields = 0
    for images in image_pieces:
        _require(all(image.coco_url or image.file_name for image in images), "the file of an image")
        paths = [image_paths(one.coco_url, one.file_name, one.id, name) for one in images]
        parts.add("image_id", np.int64, [image.id for image in images])
        parts.add("image_size", np.int64, [(image.height, image.width) for image in images])
        for field, texts in zip(("path", "url_path"), zip(*paths, strict=True), strict=False):
            parts.add_texts(field, [text.encode("utf-8", "surrogatepass") for text in texts])
        for name_of_field in FEDERATED_FIELDS:
            ids = [getattr(image, name_of_field) for image in images]
            num_federated_fields += sum(of_image is not msgspec.UNSET for of_image in ids)
            parts.add_lists(name_of_field, [of_image or [] for of_image in ids])

    for annotations in annotation_pieces:
        parts.add("annotation_id", np.int64, [one.id for one in annotations])
        parts.add("annotation_image_id", np.int64, [one.image_id for one in annotations])
        parts.add("category_id", np.int64, [one.category_id for one in annotations])
        parts.add("box", np.float64, [one.bbox for one in annotations])
        parts.add("area", np.float64, [one.area for one in annotations])
        parts.add("crowd", bool, [FLAGS[one.iscrowd] for one in annotations])
        parts.add("ignored", bool, [FLAGS[one.ignore] for one in annotations])
        parts.add_texts("segmentation", [memoryview(one.segmentation) for one in annotations])

    image_id = parts.take("image_id", np.int64)
    image_size = parts.take("image_size", np.int64).reshape(-1, 2)
    annotation_id = parts.take("annotation_id", np.int64)
    box = parts.take("box", np.float64).reshape(-1, 4)
    area = parts.take("area", np.float64)
    category_id = np.array([category.id for category in categories], dtype=np.int64)
    for ids in (category_id, image_id, annotation_id):
        _require(len(np.unique(ids)) == len(ids), "an id that occurs twice")
    _require(len(image_id) > 0 and len(category_id) > 0, "no images or categories")
    _require((image_size >= 1).all() and (image_size < 2**32).all(), "the size of an image")
    _require((image_size.prod(axis=1) < 2**32).all(), "the size of an image")
    _require(num_federated_fields in (0, 2 * len(image_id)), "missing labels of images")
    federated = num_federated_fields > 0
    area, area_filled = _fill_areas(area, box)
    _require(np.isfinite(box).all() and np.isfinite(area).all(), "a box or an area")

    image = positions_of_ids(parts.take("annotation_image_id", np.int64), image_id)
    ids_used = {field: parts.take(field, np.int64) for field in ("category_id", *FEDERATED_FIELDS)}
    categories, left_out = _without_roots(categories, *ids_used.values())
    category_id = np.array([category.id for category in categories], dtype=np.int64)
    category, negative, not_exhaustive = (
        positions_of_ids(ids, category_id).astype(np.int32) for ids in ids_used.values()
    )
    start = parts.take_starts("segmentation")
    order = np.argsort(image, kind="stable")
    segmentation_text = np.frombuffer(parts.texts["segmentation"], dtype=np.uint8)
    states = segmentation_states(segmentation_text, start, image_size[image])
    return AnnotationColumns(
        federated=federated,
        category_name=tuple(category.name for category in categories),
        category_frequency=tuple(category.frequency for category in categories),
        left_out_categories=left_out,
        category_id=category_id,
        image_id=image_id,
        image_size=image_size,
        path_start=parts.take_starts("path"),
        path_text=np.frombuffer(parts.texts["path"], dtype=np.uint8),
        url_path_start=parts.take_starts("url_path"),
        url_path_text=np.frombuffer(parts.texts["url_path"], dtype=np.uint8),
        negative_start=parts.take_starts("neg_category_ids"),
        negative=negative,
        not_exhaustive_start=parts.take_starts("not_exhaustive_category_ids"),
        not_exhaustive=not_exhaustive,
        annotation_start=_starts(np.bincount(image, minlength=len(image_id))),
        annotation_id=annotation_id[order],
        category=category[order],
        box=box[order],
        area=area[order],
        area_filled=area_filled[order],
        crowd=parts.take("crowd", bool)[order],
        ignored=parts.take("ignored", bool)[order],
        segmentation_range=np.stack([start[:-1], start[1:]], axis=1)[order],
        segmentation_text=segmentation_text,
        segmentation_state=states[order],
    )


def _fill_areas(area: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put width x height where there is no area; say where that was."""
    filled = np.isnan(area) | (area <= 0)
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.where((box[:, 2:] > 0).all(axis=1), box[:, 2] * box[:, 3], 0)
    return np.where(filled, np.nan_to_num(product), area), filled


def _without_roots(
    categories: list[_Category], *ids_used: np.ndarray
) -> tuple[list[_Category], tuple[str, ...]]:
    """Leave out what is the supercategory of another category and nothing else."""
    used = set(np.unique(np.concatenate(ids_used)).tolist())
    children: dict[str, set[int]] = defaultdict(set)
    for category in categories if used else ():
        children[str(category.supercategory)].add(category.id)
    kept, left_out = [], []
    for one in categories:
        is_root = one.id not in used and children[one.name] - {one.id}
        (left_out if is_root else kept).append(one)
    return kept, tuple(one.name for one in left_out)


class _Parts:
    """Columns in the making, piece by piece, so that few records exist as Python objects."""

    def __init__(self) -> None:
        self._arrays: dict[str, list[np.ndarray]] = defaultdict(list)
        self.texts: dict[str, bytearray] = defaultdict(bytearray)

    def add(self, name: str, dtype: Any, values: Sequence) -> None:
        self._arrays[name].append(np.array(values, dtype=dtype))

    def add_lists(self, name: str, lists: Sequence[Sequence[int]]) -> None:
        self.add(name, np.int64, list(chain.from_iterable(lists)))
        self.add(f"{name}_length", np.int64, [len(one) for one in lists])

    def add_texts(self, name: str, texts: Sequence[bytes | memoryview]) -> None:
        self.texts[name] += b"".join(texts)
        self.add(f"{name}_length", np.int64, [len(text) for text in texts])

    def take_starts(self, name: str) -> np.ndarray:
        """Where each list or text begins, and where the last one ends."""
        return _starts(self.take(f"{name}_length", np.int64))

    def take(self, name: str, dtype: Any) -> np.ndarray:
        arrays = [array for array in self._arrays.pop(name, []) if len(array)]
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def positions_of_ids(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the position of each value among unique ids; ValueError if one is not among them."""
    _require(len(ids) > 0 or not len(values), "a reference to nothing")
    if len(ids) and ids.min() >= 0 and ids.max() < len(values):
        # A table is faster than a search, and no longer than the values.
        place = np.zeros(ids.max() + 1, dtype=np.int64)
        place[ids] = np.arange(len(ids))
        found = place[np.clip(values, 0, ids.max()).astype(np.int64)]
    else:
        order = np.argsort(ids)
        found = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    _require(np.array_equal(ids[found], values), "a reference to nothing")
    return found
