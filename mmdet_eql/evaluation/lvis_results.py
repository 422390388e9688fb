"""Result files, as LVIS's test server takes them: a JSON list with a record for each detection::

    {"image_id", "category_id", "bbox": [x, y, width, height], "score"}
    {"image_id", "category_id", "segmentation": {"size": [h, w], "counts": "..."}, "score"}

Boxes and masks go to separate files: lvis-api measures a mask by its box where a record has both,
which changes the metrics of small, medium and large objects.
"""

import json
import warnings
from collections.abc import Container, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from mmdet_eql.annotations.checks import is_finite
from mmdet_eql.annotations.reader import positions_of_ids
from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.result_mistakes import explain_unknown_categories, explain_unknown_images
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write, write_text
from mmdet_eql.utils.json_pieces import (
    iterate_pieces,
    load_json,
    map_file,
    map_pieces,
    pause_garbage_collection,
)

_HINT = "choose another 'outfile_prefix'"


# --- writing --------------------------------------------------------------------------------------


def image_records(
    image_id: int,
    category_ids: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray | None = None,
    masks: Sequence[bytes] | None = None,
    size: tuple[int, int] | None = None,
) -> list[dict]:
    """Return N records of an image's boxes, or of its masks.

    Args:
        image_id (int): Id of the image.
        category_ids (np.ndarray): int64 of shape (N,).
        scores (np.ndarray): float64 of shape (N,).
        boxes (np.ndarray, optional): x, y, width, height in pixels, float64 of shape (N, 4).
        masks (Sequence[bytes], optional): Compressed RLE ``counts``, N of them.
        size (tuple[int, int], optional): Height and width of the masks in pixels.
    """
    if masks is None:
        field, values = "bbox", boxes.tolist()
    else:
        field = "segmentation"
        values = [{"size": size, "counts": counts.decode("ascii")} for counts in masks]
    rows = zip(category_ids.tolist(), values, scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category_id, field: value, "score": score}
        for category_id, value, score in rows
    ]


def write_results(path: str, records_of_images: Iterable[list[dict]], hint: str = _HINT) -> int:
    """Write a result file, and return its number of records.

    The folder is made, and the file appears whole or not at all. A UserError, with ``hint``, says
    that it cannot be written.
    """
    number = 0
    with atomic_write(path, hint) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        file.write("[")
        for records in filter(None, records_of_images):
            file.write((",\n" if number else "") + json.dumps(records)[1:-1])
            number += len(records)
        file.write("]\n")
    return number


def write_json(path: str, content: Any) -> None:
    """Write a small JSON file, whole or not at all; raise a UserError if that is not possible."""
    write_text(path, json.dumps(content, indent=1) + "\n", _HINT)


# --- reading --------------------------------------------------------------------------------------


def read_results(
    path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str = "the annotation file"
) -> LVISDetections:
    """Read a result file.

    A valid file is decoded piece by piece into typed records, a long one on all cores. Any other is
    read again by :mod:`json` and checked record by record, to say what is wrong with it.

    Args:
        path (str): File to read.
        ground_truth (LVISGroundTruth): Images and categories that the file may refer to.
        iou_type (str): 'bbox' to read boxes, 'segm' or 'boundary' to read masks.
        ann_file (str): Name of the annotation file, for error messages.

    Returns:
        LVISDetections: In the order of the file; of masks, with boxes and a warning if the first
        record has one.

    Raises:
        UserError: If the file cannot be read, is no JSON list of such records, or refers to images
            or categories that are unknown.
    """
    iou_type = "bbox" if iou_type == "bbox" else "segm"
    with pause_garbage_collection():
        try:
            detections = _decode(path, ground_truth, iou_type)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError, OSError):
            # ValueError covers an empty file, and columns that are invalid.
            detections = _read_carefully(path, ground_truth, iou_type, ann_file)
    if iou_type == "segm" and detections.boxes is not None:
        warnings.warn(
            f"{path}: the records have 'bbox' beside 'segmentation'; as in lvis-api, APs, APm and "
            "APl then go by the areas of the boxes. Remove 'bbox' to go by the areas of the masks.",
            stacklevel=2,
        )
    return detections


class _Record(msgspec.Struct, gc=False):
    image_id: float
    category_id: float
    score: float


class _BoxRecord(_Record, gc=False):
    bbox: tuple[float, float, float, float]


class _Mask(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str


class _MaskRecord(msgspec.Struct, gc=False):
    segmentation: _Mask


#: Whole numbers that a float holds exactly.
_MAX_ID = 2**53


def _decode(path: str, ground_truth: LVISGroundTruth, iou_type: str) -> LVISDetections:
    content = map_file(path)
    kind, decode_masks = _BoxRecord, None
    if iou_type == "segm":
        first = next(iterate_pieces(content))
        raw = msgspec.json.decode(first, type=list[dict[str, msgspec.Raw]])
        kind = _BoxRecord if _has_boxes(raw) else _Record
        decode_masks = msgspec.json.Decoder(list[_MaskRecord]).decode
    decode = msgspec.json.Decoder(list[kind]).decode

    def columns_of(piece: bytes) -> LVISDetections:
        *ids, score, boxes = _numbers(decode(piece), kind)
        if max(np.abs(of).max(initial=0) for of in ids) >= _MAX_ID:
            raise ValueError("an id that may be rounded")
        masks = None
        if decode_masks:
            found = [one.segmentation for one in decode_masks(piece)]
            masks = [one.size for one in found], [one.counts for one in found]
        return _columns(ground_truth, *ids, score, boxes, masks)

    return LVISDetections.concatenate(map_pieces(columns_of, content))


def _has_boxes(records: Sequence) -> bool:
    return bool(records) and isinstance(records[0], dict) and "bbox" in records[0]


def _numbers(records: list[_Record], kind: type[_Record]) -> tuple[np.ndarray | None, ...]:
    """Return image ids, category ids, scores and boxes, if there are any, of N records: float64.

    MessagePack writes a float in a byte and 8 more, so that all records have the same length, and
    NumPy reads them at once. Attribute by attribute it takes longer than to decode the JSON.
    """
    places, length = [], 1
    for field in kind.__struct_fields__:
        number = 4 if field == "bbox" else 1
        length += 1 + len(field) + (number > 1)  # the name, and the head of a list
        places += [length + 9 * index + 1 for index in range(number)]
        length += 9 * number
    layout = {"names": list(map(str, places)), "formats": [">f8"] * len(places)}
    layout = np.dtype({**layout, "offsets": places, "itemsize": length})
    text = msgspec.msgpack.encode(records)
    rows = np.frombuffer(text, layout, len(records), len(text) - len(records) * length)
    image_id, category_id, score, *box = (rows[name].astype(np.float64) for name in layout.names)
    return image_id, category_id, score, np.stack(box, axis=1) if box else None


def _columns(
    ground_truth: LVISGroundTruth,
    image_id: np.ndarray,
    category_id: np.ndarray,
    score: np.ndarray,
    boxes: np.ndarray | None,
    masks: Sequence[Sequence] | None,
) -> LVISDetections:
    """Check columns of a file, and put positions in place of ids; ValueError if one is invalid.

    ``masks`` are sizes and counts.
    """
    image = positions_of_ids(image_id, ground_truth.image_ids)
    category = positions_of_ids(category_id, ground_truth.category_ids)
    if not np.isfinite(score).all() or not (boxes is None or np.isfinite(boxes).all()):
        raise ValueError("a number that is not finite")
    counts = None
    if masks is not None:
        # Whether the runs fill the image is checked when masks are measured.
        sizes = np.array(masks[0], dtype=np.float64).reshape(-1, 2)
        if not np.array_equal(sizes, ground_truth.image_sizes[image]):
            raise ValueError("the size of a mask")
        counts = np.fromiter((text.encode("ascii") for text in masks[1]), object, len(image))
    return LVISDetections(image, category, score, boxes, counts)


# --- files that are not valid ---------------------------------------------------------------------


def _read_carefully(
    path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str
) -> LVISDetections:
    hint = "correct the path, or test with 'outfile_prefix' set in the evaluator to write one"
    records = load_json(path, "result file", hint)
    if not isinstance(records, list):
        raise UserError(
            f"{path}: is not a JSON list; a result file is a list of records with 'image_id', "
            "'category_id', 'score' and 'bbox' or 'segmentation'."
        )
    boxed = iou_type == "bbox" or _has_boxes(records)
    fields = ["image_id", "category_id", "score", *["bbox"] * boxed]
    if iou_type == "segm":
        fields.append("segmentation")  # after the image, whose size it needs
    sizes = zip(ground_truth.image_ids.tolist(), ground_truth.image_sizes.tolist(), strict=True)
    size_of, category_ids = dict(sizes), set(ground_truth.category_ids.tolist())
    rules = {
        "image_id": f"is not in {ann_file}",
        "category_id": f"is not in {ann_file}",
        "score": "is no number",
        "bbox": "is not [x, y, width, height] in pixels",
        "segmentation": "is not compressed RLE, {'size': [height, width], 'counts': '...'}, of the "
        "size of its image",
    }
    for number, record in enumerate(records):
        for field in fields:
            if not isinstance(record, dict) or field not in record:
                problem = f"is not an object with a field '{field}'"
            elif _is_valid(record, field, size_of, category_ids):
                continue
            else:
                problem = f"has a '{field}' that {rules[field]}"
                record = {field: record[field], **record}  # it may be long, and is cut
            shown = repr(record)
            shown = shown if len(shown) <= 150 else shown[:147] + "..."
            raise UserError(
                f"{path}: record {number} {problem}: {shown}; "
                f"{_explain(record, field, records, ground_truth)}."
            )
    ids, numbers = (
        [np.array([one[field] for one in records], dtype=kind) for field in names]
        for kind, names in ((np.int64, fields[:2]), (np.float64, fields[2 : 3 + boxed]))
    )
    boxes = numbers[1].reshape(-1, 4) if boxed else None
    masks = None
    if iou_type == "segm":
        masks = [[one["segmentation"][key] for one in records] for key in ("size", "counts")]
    return _columns(ground_truth, *ids, numbers[0], boxes, masks)


def _explain(record: Any, field: str, records: list, ground_truth: LVISGroundTruth) -> str:
    """What an invalid field comes from, if the ids of all records show it, or what to do."""
    if isinstance(record, dict) and field in record and field in ("image_id", "category_id"):
        if not _is_whole(record[field]):
            return "write ids as whole numbers"
        ids = [one.get(field) for one in records if isinstance(one, dict)]
        ids = [int(one) for one in ids if _is_whole(one)]
        if field == "image_id":
            return explain_unknown_images(ids, ground_truth.image_ids)
        if explanation := explain_unknown_categories(ids, ground_truth.category_ids):
            return explanation
    return "correct the file, or give the one that belongs to this annotation file and metric"


def _is_whole(value: Any) -> bool:
    return type(value) in (int, float) and value % 1 == 0


def _is_valid(record: dict, field: str, size_of: dict, category_ids: Container[int]) -> bool:
    value = record[field]
    if field == "score":
        return is_finite(value)
    if field == "bbox":
        return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))
    if field == "segmentation":
        if not isinstance(value, dict) or value.get("size") != size_of[record["image_id"]]:
            return False
        return isinstance(value.get("counts"), str) and value["counts"].isascii()
    is_number = type(value) in (int, float)
    return is_number and value in (size_of if field == "image_id" else category_ids)
