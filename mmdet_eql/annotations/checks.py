"""What an annotation file must hold, and one sentence that says what is wrong with another one.

LVIS v0.5 and v1 share one layout, a COCO file with federated labels::

    {"images":      [{"id", "height", "width", "file_name" or "coco_url",
                      "neg_category_ids", "not_exhaustive_category_ids"}, ...],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "area",
                      "segmentation": [[x1, y1, x2, y2, ...], ...]}, ...],
     "categories":  [{"id", "name", "frequency": "r" | "c" | "f"}, ...]}

``neg_category_ids`` are the categories verified absent from an image;
``not_exhaustive_category_ids`` those of which some instances may be unannotated. A file in which no
image has either list is a COCO file, whose annotators looked for every category in every image.

What other programs write is taken where its meaning is clear: whole numbers such as ``60.0``,
``area`` missing, ``iscrowd`` as text, Windows' paths, a byte order mark.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.json_pieces import load_json

_REQUIRED_FIELDS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
#: Per-image lists of category ids that make a COCO file an LVIS file.
FEDERATED_FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")
#: Values of ``iscrowd`` and ``ignore``; 0 and 1 stand for 0.0, false and 1.0, true as well.
FLAGS = {0: False, 1: True, None: False, "": False, "0": False, "1": True}
FLAGS |= {"false": False, "False": False, "true": True, "True": True}
_DRIVE = re.compile("[A-Za-z]:/")


def load_lvis_json(
    path: str, backend_args: dict | None = None, annotated: bool = True
) -> dict[str, Any]:
    """Read an annotation file in LVIS or COCO format, and check it.

    Checked are the fields that training and evaluation read, that ids are unique, and that they
    refer to records that exist. Whole numbers such as 60.0 become integers.

    Args:
        path (str): Path of the annotation file.
        backend_args (dict, optional): mmengine's file backend, for files that are not local.
        annotated (bool): Whether ``annotations`` may not be missing.

    Raises:
        UserError: If the file cannot be read, is not JSON, or is not in LVIS format.
    """
    hint = (
        "correct the path ('ann_file' and 'data_root' of a config), or prepare the dataset as the "
        "README describes"
    )
    data = load_json(path, "annotation file", hint, backend_args)
    if not annotated and isinstance(data, dict):
        data.setdefault("annotations", [])
    _make_integers(data)
    problem = next(_problems(data), None)
    if problem is not None:
        raise UserError(f"{path}: {problem}")
    return data


def image_paths(
    coco_url: str | None, file_name: str | None, image_id: int, ann_file: str
) -> tuple[str, str]:
    """Paths of an image below the image folder that its ``file_name`` and ``coco_url`` name.

    The second is empty if both are the same or there is but one of them. Paths may be absolute.

    Raises:
        UserError: If one leads out of the folder.
    """
    # LVIS names the COCO split an image lies in by its URL alone; v1 mixes splits.
    paths = [file_name, "/".join(coco_url.split("/")[-2:])] if coco_url else [file_name]
    paths = [path.replace("\\", "/") for path in paths if path and isinstance(path, str)]
    for path in paths:
        if ".." in path.split("/") or _DRIVE.match(path):
            raise UserError(
                f"{ann_file}: image {image_id} lies at {path!r}, outside the image folder; "
                "give a path below data_prefix['img']."
            )
    return paths[0], "" if paths[-1] == paths[0] else paths[-1]


def _make_integers(data: Any) -> None:
    for table, fields in _REQUIRED_FIELDS.items():
        records = data.get(table) if isinstance(data, dict) else None
        for record in records if isinstance(records, list) else ():
            for field in fields if isinstance(record, dict) else ():  # not names and boxes
                value = record.get(field)
                if type(value) is float and value.is_integer() and abs(value) < 2**53:
                    record[field] = int(value)


def _problems(data: Any) -> Iterator[str]:
    """Sentences on what is wrong; only the first is reliable."""
    if not isinstance(data, dict):
        yield (
            f"holds a JSON {type(data).__name__} where an LVIS annotation file holds an object "
            "with 'images', 'annotations' and 'categories'; give the annotation file itself."
        )
    for table in _REQUIRED_FIELDS:
        if not isinstance(data.get(table), list):
            problem = "is missing" if table not in data else "is not a list"
            yield (
                f"field '{table}' {problem}; an LVIS annotation file needs the lists 'images', "
                "'annotations' and 'categories'."
            )
        yield from _problems_of_table(table, data[table])
    categories = {category["id"] for category in data["categories"]}
    yield from _problems_of_images(data["images"], categories)
    images = {image["id"] for image in data["images"]}
    yield from _problems_of_annotations(data["annotations"], images, categories)


def _problems_of_table(table: str, records: list) -> Iterator[str]:
    seen = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            yield f"{table}[{index}] is not an object; fix or remove it."
        for field in _REQUIRED_FIELDS[table]:
            if field not in record:
                yield (
                    f"{table}[{index}] has no field '{field}', which the LVIS format requires; "
                    "add it."
                )
        identifier = record["id"]
        if not _is_int(identifier) or not -(2**63) <= identifier < 2**63:
            yield (
                f"{table}[{index}] has the id {_shorten(identifier)}; ids must be whole numbers "
                "of at most 64 bits."
            )
        if identifier in seen:
            yield (
                f"{table} holds the id {identifier} twice (second time at index {index}); ids "
                "must be unique."
            )
        seen.add(identifier)
        if table == "categories" and not isinstance(record["name"], str):
            name = _shorten(record["name"])
            yield f"category {identifier} has the name {name}; names must be strings."
    if table != "annotations" and not records:
        yield f"field '{table}' is an empty list; there is nothing to read."


def _problems_of_images(images: list[dict], categories: set[int]) -> Iterator[str]:
    federated = any(field in image for image in images for field in FEDERATED_FIELDS)
    for image in images:
        where = f"image {image['id']}"
        for field in ("height", "width"):
            if not _is_int(image[field]) or image[field] < 1:
                yield (
                    f"{where} has {field} {_shorten(image[field])}; it must be a positive whole "
                    "number of pixels."
                )
        if image["height"] * image["width"] >= 2**32:
            yield (
                f"{where} is {image['width']} x {image['height']} pixels, more than masks can be "
                "made of; correct its height and width."
            )
        names = image.get("coco_url") or "", image.get("file_name") or ""
        if not all(isinstance(name, str) for name in names) or not any(names):
            yield f"{where} has no 'coco_url' or 'file_name'; one of them must name its file."
        for field in FEDERATED_FIELDS if federated else ():
            if field not in image:
                yield (
                    f"{where} has no field '{field}', which the LVIS format requires; add it (an "
                    "empty list where nothing is known), or remove "
                    f"{' and '.join(map(repr, FEDERATED_FIELDS))} from all images if every "
                    "category was looked for in every image."
                )
            if not isinstance(image[field], list):
                yield f"{where}: '{field}' is not a list of category ids; fix it."
            for identifier in image[field]:
                if not _is_int(identifier) or identifier not in categories:
                    yield (
                        f"{where}: '{field}' names the category {_shorten(identifier)}, which is "
                        "not in 'categories'; add it there or remove it here."
                    )


def _problems_of_annotations(
    annotations: list[dict], images: set[int], categories: set[int]
) -> Iterator[str]:
    for annotation in annotations:
        where = f"annotation {annotation['id']}"
        image, category = annotation["image_id"], annotation["category_id"]
        if not _is_int(image) or image not in images:
            yield (
                f"{where} belongs to image {_shorten(image)}, which is not in 'images'; remove "
                "one or add the other."
            )
        if not _is_int(category) or category not in categories:
            yield (
                f"{where} has category {_shorten(category)}, which is not in 'categories'; "
                "remove one or add the other."
            )
        box, area = annotation["bbox"], annotation.get("area")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            yield (
                f"{where} has bbox {_shorten(box)}; it must be [x, y, width, height] with four "
                "finite numbers in pixels."
            )
        if area is not None and not is_finite(area):
            yield f"{where} has area {_shorten(area)}; it must be a finite number of square pixels."
        for field in ("iscrowd", "ignore"):
            value = annotation.get(field)
            if isinstance(value, (list, dict)) or value not in FLAGS:
                yield f"{where} has {field} {_shorten(value)}; it must be 0 or 1."


def _is_int(value: Any) -> bool:
    return type(value) is int


def is_finite(value: Any) -> bool:
    """Return whether a JSON value is a finite number."""
    # A whole number beyond the range of a float is finite, yet of no use as a coordinate.
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
