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
"""

import json
import math
import os.path as osp
from collections.abc import Iterable
from typing import Any

from mmengine.fileio import get_local_path

from mmdet_eql.utils.errors import UserError

#: Fields of each record that every reader here relies on.
REQUIRED_FIELDS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
#: Per-image lists of category ids that make a COCO file an LVIS file.
FEDERATED_FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")


def load_lvis_json(
    path: str, backend_args: dict | None = None, annotated: bool = True
) -> dict[str, Any]:
    """Read an annotation file in LVIS or COCO format and check its structure.

    Checked are the presence and type of every field that training and evaluation read, that ids
    are unique, and that they refer to records that exist.

    Args:
        path (str): Path of the annotation file.
        backend_args (dict, optional): mmengine's file backend, for files that are not local.
        annotated (bool): Whether annotations are needed.

    Returns:
        dict: The file's content as it stands, with the keys ``images``, ``annotations`` and
        ``categories``.

    Raises:
        UserError: If the file cannot be read, is not JSON, or is not in LVIS format.
    """
    data = _parse_json(path, backend_args)
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: holds a JSON {type(data).__name__} where an LVIS annotation file holds an "
            "object with 'images', 'annotations' and 'categories'; give the annotation file itself."
        )
    if not annotated and "annotations" not in data:
        data["annotations"] = []
    for table, fields in REQUIRED_FIELDS.items():
        records = data.get(table)
        if not isinstance(records, list):
            problem = "is missing" if table not in data else "is not a list"
            raise UserError(
                f"{path}: field '{table}' {problem}; an LVIS annotation file needs the lists "
                "'images', 'annotations' and 'categories'."
            )
        _check_records(path, table, records, fields)

    images = {image["id"] for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    _check_images(path, data["images"], categories)
    _check_annotations(path, data["annotations"], images, categories)
    return data


def image_path(coco_url: str | None, file_name: str | None, image_id: int, ann_file: str) -> str:
    """Path of an image below the image folder, from its fields in the annotation file.

    Raises:
        UserError: If it leads out of the folder.
    """
    # LVIS names the COCO split an image lies in by its URL alone; v1 mixes splits.
    path = "/".join(coco_url.split("/")[-2:]) if coco_url else file_name
    if osp.isabs(path) or ".." in path.split("/"):
        raise UserError(
            f"{ann_file}: image {image_id} lies at {path!r}, outside the image folder; "
            "give a path below data_prefix['img']."
        )
    return path


def _parse_json(path: str, backend_args: dict | None) -> Any:
    try:
        with (
            get_local_path(path, backend_args=backend_args) as local_path,
            open(local_path, "rb") as file,
        ):
            content = file.read()
        return json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such annotation file; correct 'ann_file' (or 'data_root') in the config, "
            "or prepare the dataset as the README describes."
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; 'ann_file' must name a JSON file in it.") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read by this user; change its permissions.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not a JSON text file (byte {error.start} is not UTF-8); give the unpacked "
            ".json file."
        ) from None
    except json.JSONDecodeError as error:
        # A broken-off download ends inside a value: the parser then stops at the end of the text.
        if not error.doc.strip():
            raise UserError(f"{path}: is empty; download or make the file again.") from None
        if len(error.doc) - error.pos <= 1 or error.msg.startswith("Unterminated string"):
            raise UserError(
                f"{path}: is cut off (the JSON ends in the middle, after {len(error.doc):,} "
                "characters); download or make the file again."
            ) from None
        raise UserError(
            f"{path}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); give "
            "an annotation file in LVIS format."
        ) from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be an LVIS annotation file.") from None


def _check_records(path: str, table: str, records: list, fields: Iterable[str]) -> None:
    seen = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{path}: {table}[{index}] is not an object; fix or remove it.")
        for field in fields:
            if field not in record:
                raise UserError(
                    f"{path}: {table}[{index}] has no field '{field}', which the LVIS format "
                    "requires; add it."
                )
        identifier = record["id"]
        if not _is_int(identifier) or not -(2**63) <= identifier < 2**63:
            raise UserError(
                f"{path}: {table}[{index}] has the id {_shorten(identifier)}; ids must be whole "
                "numbers of at most 64 bits."
            )
        if identifier in seen:
            raise UserError(
                f"{path}: {table} holds the id {identifier} twice (second time at index {index}); "
                "ids must be unique."
            )
        seen.add(identifier)
        if table == "categories" and not isinstance(record["name"], str):
            raise UserError(
                f"{path}: category {identifier} has the name {_shorten(record['name'])}; names must"
                " be strings."
            )
    if table != "annotations" and not records:
        raise UserError(f"{path}: field '{table}' is an empty list; there is nothing to read.")


def _check_images(path: str, images: list[dict], categories: set[int]) -> None:
    federated = any(field in image for image in images for field in FEDERATED_FIELDS)
    for image in images:
        where = f"{path}: image {image['id']}"
        for field in ("height", "width"):
            if not _is_int(image[field]) or image[field] < 1:
                raise UserError(
                    f"{where} has {field} {_shorten(image[field])}; it must be a positive whole "
                    "number of pixels."
                )
        if image["height"] * image["width"] >= 2**32:
            raise UserError(
                f"{where} is {image['width']} x {image['height']} pixels, more than masks can be "
                "made of; correct its height and width."
            )
        if not isinstance(image.get("coco_url") or image.get("file_name"), str):
            raise UserError(
                f"{where} has neither a field 'coco_url' nor 'file_name'; one of them must name "
                "its file."
            )
        for field in FEDERATED_FIELDS if federated else ():
            if field not in image:
                raise UserError(
                    f"{where} has no field '{field}', which the LVIS format requires; add it (an "
                    "empty list where nothing is known), or remove "
                    f"{' and '.join(map(repr, FEDERATED_FIELDS))} from all images if every "
                    "category was looked for in every image."
                )
            ids = image[field]
            if not isinstance(ids, list):
                raise UserError(f"{where}: '{field}' is not a list of category ids; fix it.")
            for identifier in ids:
                if not _is_int(identifier) or identifier not in categories:
                    raise UserError(
                        f"{where}: '{field}' names the category {_shorten(identifier)}, which is "
                        "not in 'categories'; add it there or remove it here."
                    )


def _check_annotations(
    path: str, annotations: list[dict], images: set[int], categories: set[int]
) -> None:
    for annotation in annotations:
        where = f"{path}: annotation {annotation['id']}"
        if not _is_int(annotation["image_id"]) or annotation["image_id"] not in images:
            raise UserError(
                f"{where} belongs to image {_shorten(annotation['image_id'])}, which is not in "
                "'images'; remove one or add the other."
            )
        if not _is_int(annotation["category_id"]) or annotation["category_id"] not in categories:
            raise UserError(
                f"{where} has category {_shorten(annotation['category_id'])}, which is not in "
                "'categories'; remove one or add the other."
            )
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            raise UserError(
                f"{where} has bbox {_shorten(box)}; it must be [x, y, width, height] with four "
                "finite numbers in pixels."
            )
        if not _is_finite(annotation["area"]):
            raise UserError(
                f"{where} has area {_shorten(annotation['area'])}; it must be a finite number of "
                "square pixels."
            )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    # A whole number beyond the range of a float is finite, yet of no use as a coordinate.
    try:
        return (_is_int(value) and abs(float(value)) < math.inf) or (
            isinstance(value, float) and math.isfinite(value)
        )
    except OverflowError:
        return False


def _shorten(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
