"""From the JSON of an annotation file to columns.

:func:`read_columns` is the way in. :func:`decode_columns` decodes a sound file several times as
fast as :mod:`json` and in a fraction of the memory: the tables are found without decoding them, and
then decoded piece by piece, straight into typed records. It does not say what is wrong with another
one; :func:`columns_of` makes the same columns from what
:func:`mmdet_eql.annotations.lvis_format.load_lvis_json` has read and checked.
"""

import json
import mmap
import os.path as osp
from typing import Any

import msgspec
import numpy as np
from mmengine.fileio import get_local_path

from mmdet_eql.annotations.annotation_cache import cached_columns
from mmdet_eql.annotations.lvis_columns import ColumnsBuilder, LVISColumns
from mmdet_eql.annotations.lvis_format import FEDERATED_FIELDS, image_path, load_lvis_json
from mmdet_eql.utils.garbage_collection import pause_garbage_collection
from mmdet_eql.utils.json_pieces import forget_pages, iterate_pieces, map_file

_RECORDS_AT_ONCE = 10_000
#: Whole numbers below it can be rounded to a float.
_LARGEST = 2**1023


class UndecodableError(Exception):
    """A file that :func:`decode_columns` leaves to the careful reader."""


class _Tables(msgspec.Struct):
    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: msgspec.Raw


class _Category(msgspec.Struct):
    id: int
    name: str


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int
    width: int
    neg_category_ids: list[int]
    not_exhaustive_category_ids: list[int]
    coco_url: str | None = None
    file_name: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: list[list[float]] | None = None
    iscrowd: Any = False
    ignore: Any = False


class _AnyAnnotation(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


_decode_tables = msgspec.json.Decoder(_Tables).decode
_decode_categories = msgspec.json.Decoder(list[_Category]).decode
_decode_images = msgspec.json.Decoder(list[_Image]).decode
_decode_annotations = msgspec.json.Decoder(list[_Annotation]).decode
_decode_any_annotations = msgspec.json.Decoder(list[_AnyAnnotation]).decode


def read_columns(
    path: str,
    backend_args: dict | None = None,
    annotated: bool = True,
    cache: bool | str = True,
) -> LVISColumns:
    """Read an annotation file in LVIS format, or its cache.

    Args:
        path (str): Path of the annotation file.
        backend_args (dict, optional): mmengine's file backend. Files that are not local have no
            cache.
        annotated (bool): Whether annotations are needed; see
            :func:`mmdet_eql.annotations.lvis_format.load_lvis_json`.
        cache (bool | str): Whether to use a cache, or its folder; see
            :func:`mmdet_eql.annotations.annotation_cache.cached_columns`.

    Returns:
        LVISColumns: The content of the file.

    Raises:
        UserError: If the file cannot be read, is not JSON, is not in LVIS format, or has an image
            outside the image folder.
    """

    def read_carefully() -> LVISColumns:
        with pause_garbage_collection():
            return columns_of(load_lvis_json(path, backend_args, annotated), path)

    def read() -> LVISColumns:
        try:
            return decode_columns(local_path, path)
        except UndecodableError:
            return read_carefully()

    try:
        with get_local_path(path, backend_args=backend_args) as local_path:
            # Of a remote file this is a copy that is about to go.
            is_local = osp.abspath(local_path) == osp.abspath(path)
            return cached_columns(local_path, read, cache if is_local else False)
    except OSError:
        return read_carefully()


def decode_columns(path: str, name: str) -> LVISColumns:
    """Decode an annotation file that has all that the format requires.

    Fields that nobody reads are skipped, whatever they hold.

    Args:
        path (str): Local path of the file.
        name (str): What messages call it.

    Returns:
        LVISColumns: Its content.

    Raises:
        UndecodableError: If it is not JSON, is not in LVIS format, or holds something unusual; the
            careful reader may take it, or says what is wrong.
        UserError: If an image lies outside the image folder.
        OSError: If it cannot be read.
    """
    try:
        with pause_garbage_collection():
            return _decode(map_file(path), name)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        # ValueError covers an empty file, text that is not UTF-8 and references to nothing.
        raise UndecodableError(str(error)) from None


def _decode(content: mmap.mmap, name: str) -> LVISColumns:
    tables = _decode_tables(content)
    forget_pages(content)
    categories = _decode_categories(tables.categories)
    category_ids = [category.id for category in categories]
    _require_ids(np.array(category_ids, dtype=np.int64))
    builder = ColumnsBuilder((category.id, category.name) for category in categories)

    known = set(category_ids)
    for piece in iterate_pieces(tables.images):
        images = _decode_images(piece)
        for image in images:
            if not (image.height >= 1 and image.width >= 1 and image.height * image.width < 2**32):
                raise UndecodableError("an image's size")
            if not isinstance(image.coco_url or image.file_name, str):
                raise UndecodableError("an image's file")
            if not known.issuperset(image.not_exhaustive_category_ids):
                raise UndecodableError("an image's categories")
        builder.add_images(
            images, [image_path(msgspec.structs.asdict(image), name) for image in images]
        )

    ids = []
    for piece in iterate_pieces(tables.annotations):
        try:
            annotations = _decode_annotations(piece)
            segmentations = [annotation.segmentation for annotation in annotations]
        except msgspec.ValidationError:
            annotations = _decode_any_annotations(piece)
            segmentations = [_read_segmentation(bytes(one.segmentation)) for one in annotations]
        ids.append(np.array([annotation.id for annotation in annotations], dtype=np.int64))
        builder.add_annotations(annotations, segmentations)
        forget_pages(content)
    columns = builder.finish()
    if len(columns.category):
        _require_ids(np.concatenate(ids))
    _require_ids(columns.image_id)
    return columns


def columns_of(data: dict[str, Any], name: str) -> LVISColumns:
    """Turn the content of an annotation file into columns.

    Args:
        data (dict): What :func:`mmdet_eql.annotations.lvis_format.load_lvis_json` returns.
        name (str): What messages call the file.

    Returns:
        LVISColumns: The same content.

    Raises:
        UserError: If an image lies outside the image folder.
    """
    builder = ColumnsBuilder((record["id"], record["name"]) for record in data["categories"])
    images = [
        _Image(
            *(
                record.get(field, [] if field in FEDERATED_FIELDS else None)
                for field in _Image.__struct_fields__
            )
        )
        for record in data["images"]
    ]
    builder.add_images(images, [image_path(record, name) for record in data["images"]])
    fields = _Annotation.__struct_fields__
    for start in range(0, len(data["annotations"]), _RECORDS_AT_ONCE):
        annotations = [
            _Annotation(*(record.get(field) for field in fields))
            for record in data["annotations"][start : start + _RECORDS_AT_ONCE]
        ]
        builder.add_annotations(
            annotations, [_split_segmentation(one.segmentation) for one in annotations]
        )
    return builder.finish()


def _read_segmentation(text: bytes) -> list[list[float]] | bytes | None:
    segmentation = _split_segmentation(json.loads(text))
    return text if isinstance(segmentation, bytes) else segmentation


def _split_segmentation(segmentation: Any) -> list[list[float]] | bytes | None:
    """Polygons as they are, all else as JSON."""
    if isinstance(segmentation, list) and all(
        isinstance(polygon, list) and all(map(_is_coordinate, polygon)) for polygon in segmentation
    ):
        return segmentation
    return json.dumps(segmentation).encode("ascii") if segmentation else None


def _is_coordinate(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _require_ids(ids: np.ndarray) -> None:
    ordered = np.sort(ids)
    if not len(ids) or ordered[0] == -(2**63) or (ordered[1:] == ordered[:-1]).any():
        raise UndecodableError("ids")
