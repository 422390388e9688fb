"""Result files of LVIS: what its test server takes, and what its evaluation reads.

A file is one JSON list with a record for each detection::

    {"image_id", "category_id", "bbox": [x, y, width, height], "score"}
    {"image_id", "category_id", "segmentation": {"size": [h, w], "counts": "..."}, "score"}

Boxes and masks go to separate files: lvis-api measures a mask by its box where a record holds both,
which moves small, medium and large figures.
"""

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from operator import attrgetter, itemgetter
from typing import Any, NoReturn, TextIO

import msgspec
import numpy as np
from mmengine.logging import print_log

from mmdet_eql.annotations.checks import load_lvis_json
from mmdet_eql.evaluation.lvis_evaluation import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    LVISDetections,
    LVISEvaluation,
    LVISGroundTruth,
    evaluate_detections,
)
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write
from mmdet_eql.utils.garbage_collection import pause_garbage_collection
from mmdet_eql.utils.json_pieces import forget_pages, iterate_pieces, map_file

_RECORDS_AT_ONCE = 10_000
_SPACE = re.compile(r"[ \t\r\n]*")


def evaluate_files(
    ann_file: str,
    results_file: str,
    iou_type: str = "bbox",
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
    backend_args: dict | None = None,
) -> LVISEvaluation:
    """Evaluate a result file, as the metric does during testing.

    Args:
        ann_file (str): Annotation file in LVIS format.
        results_file (str): Result file, of this project or any other.
        iou_type (str): 'bbox' or 'segm'.
        iou_thresholds (Sequence[float]): IoU thresholds, T of them.
        max_detections (int): Detections per image that count.
        backend_args (dict, optional): mmengine's file backend for ``ann_file``.

    Returns:
        LVISEvaluation: Precision and recall arrays; its ``figures()`` are AP and the like.

    Raises:
        UserError: If one of the files cannot be used, or they do not belong together.

    Example:
        >>> result = evaluate_files("lvis_v1_val.json", "x.segm.json", "segm")  # doctest: +SKIP
        >>> result.figures()["APr"], result.category_ap()  # doctest: +SKIP
    """
    if iou_type not in ("bbox", "segm"):
        raise UserError(f"iou_type is {iou_type!r}; it must be 'bbox' or 'segm'.")
    ground_truth = read_ground_truth(ann_file, iou_type == "segm", backend_args)
    detections = read_results(results_file, ground_truth, iou_type, ann_file)
    try:
        return evaluate_detections(
            ground_truth, detections, iou_type, np.asarray(iou_thresholds), max_detections
        )
    except UserError as error:
        raise UserError(f"{results_file}: {error}") from None


# --- writing --------------------------------------------------------------------------------------


def box_records(
    image_id: int, category_ids: np.ndarray, boxes: np.ndarray, scores: np.ndarray
) -> list[dict]:
    """Records of an image's boxes.

    Args:
        image_id (int): Id of the image.
        category_ids (np.ndarray): int64 of shape (N,).
        boxes (np.ndarray): x, y, width, height in pixels, float64 of shape (N, 4).
        scores (np.ndarray): float64 of shape (N,).

    Returns:
        list[dict]: N records.
    """
    columns = (category_ids.tolist(), boxes.tolist(), scores.tolist())
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(*columns, strict=True)
    ]


def mask_records(
    image_id: int,
    category_ids: np.ndarray,
    masks: Sequence[bytes],
    size: tuple[int, int],
    scores: np.ndarray,
) -> list[dict]:
    """Records of an image's masks.

    Args:
        image_id (int): Id of the image.
        category_ids (np.ndarray): int64 of shape (N,).
        masks (Sequence[bytes]): Compressed RLE ``counts``, N of them.
        size (tuple[int, int]): Height and width of the masks in pixels.
        scores (np.ndarray): float64 of shape (N,).

    Returns:
        list[dict]: N records.
    """
    columns = (category_ids.tolist(), masks, scores.tolist())
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": {"size": list(size), "counts": counts.decode("ascii")},
            "score": score,
        }
        for category_id, counts, score in zip(*columns, strict=True)
    ]


def write_results(
    path: str,
    records_of_images: Iterable[list[dict]],
    mend: str = "choose another 'outfile_prefix'",
) -> None:
    """Write a result file; its folder is made, and the file appears whole or not at all.

    Args:
        path (str): File to write.
        records_of_images (Iterable[list[dict]]): Records, image by image.
        mend (str): What the user can do if it cannot be written.

    Raises:
        UserError: If the file cannot be written.
    """
    with _whole_file(path, mend) as file:
        file.write("[")
        separator = ""
        for records in records_of_images:
            if records:
                file.write(separator + json.dumps(records)[1:-1])
                separator = ",\n"
        file.write("]\n")


def write_json(path: str, content: Any) -> None:
    """Write a small JSON file as :func:`write_results` does.

    Args:
        path (str): File to write.
        content: What to write.

    Raises:
        UserError: If the file cannot be written.
    """
    with _whole_file(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


@contextlib.contextmanager
def _whole_file(path: str, mend: str = "choose another 'outfile_prefix'") -> Iterator[TextIO]:
    with (
        atomic_write(path, mend) as unfinished,
        open(unfinished, "w", encoding="utf-8") as file,
    ):
        yield file


# --- reading --------------------------------------------------------------------------------------


def read_ground_truth(
    ann_file: str, with_masks: bool = False, backend_args: dict | None = None
) -> LVISGroundTruth:
    """Read an annotation file.

    Args:
        ann_file (str): Annotation file in LVIS format.
        with_masks (bool): Whether to encode the masks as well.
        backend_args (dict, optional): mmengine's file backend.

    Returns:
        LVISGroundTruth: What the file says, as columns.

    Raises:
        UserError: If the file cannot be used.
    """
    with pause_garbage_collection():
        data = load_lvis_json(ann_file, backend_args)
        return LVISGroundTruth.from_lvis(data, ann_file, with_masks)


def read_results(
    path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str = "the annotation file"
) -> LVISDetections:
    """Read a result file.

    Args:
        path (str): File to read.
        ground_truth (LVISGroundTruth): The images and categories that the file may speak of.
        iou_type (str): 'bbox' to read boxes, 'segm' to read masks.
        ann_file (str): Name of the annotation file, for error messages.

    Returns:
        LVISDetections: In the order of the file. As in lvis-api the area of a mask is that of its
        box if the first record holds a box as well; a warning tells.

    Raises:
        UserError: If the file cannot be read or is not a JSON list of records of this kind, or
            if it speaks of images or categories that are unknown.
    """
    reader = _ResultReader(path, ground_truth, iou_type, ann_file)
    with pause_garbage_collection():
        detections = reader.read()
    if iou_type == "segm" and detections.boxes is not None:
        print_log(
            f"{path}: the records hold 'bbox' beside 'segmentation'; as in lvis-api, APs, APm and "
            "APl then go by the areas of the boxes. Remove 'bbox' to go by the areas of the masks.",
            logger="current",
            level=logging.WARNING,
        )
    return detections


#: For each field what holds of a sound record, and what the field of another one is.
_Rules = dict[str, tuple[Callable[[dict], bool], str]]


class _Record(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    score: float


class _BoxRecord(_Record, gc=False):
    bbox: tuple[float, float, float, float]


class _RLE(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str


class _MaskRecord(_Record, gc=False):
    segmentation: _RLE


class _BoxedMaskRecord(_BoxRecord, gc=False):
    segmentation: _RLE


_decode_fields = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
#: By whether the records have boxes and masks that are wanted.
_DECODE_RECORDS = {
    (True, False): msgspec.json.Decoder(list[_BoxRecord]).decode,
    (False, True): msgspec.json.Decoder(list[_MaskRecord]).decode,
    (True, True): msgspec.json.Decoder(list[_BoxedMaskRecord]).decode,
}


class _ResultReader:
    """Turns a result file into columns, and tells what is wrong with one.

    A sound file is decoded piece by piece, straight into typed records. Any other is read once
    more, as JSON of any kind, and checked record by record.
    """

    def __init__(
        self, path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str
    ) -> None:
        self.path = path
        self.ann_file = ann_file
        self.ground_truth = ground_truth
        self.with_boxes = iou_type == "bbox"
        self.with_masks = iou_type == "segm"

    def read(self) -> LVISDetections:
        """All detections of the file."""
        try:
            blocks = list(self._decode())
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError, OSError):
            # ValueError covers an empty file, and columns that are not sound.
            blocks = list(self._read_carefully())
        return LVISDetections.concatenate(blocks)

    # --- sound files ------------------------------------------------------------------------------

    def _decode(self) -> Iterator[LVISDetections]:
        content = map_file(self.path)
        for number, piece in enumerate(iterate_pieces(content)):
            if number == 0 and self.with_masks:
                self.with_boxes = any("bbox" in fields for fields in _decode_fields(piece)[:1])
            records = _DECODE_RECORDS[self.with_boxes, self.with_masks](piece)
            yield self._columns(records, attrgetter)
            forget_pages(content)

    def _columns(self, records: list, getter: Callable[[str], Callable]) -> LVISDetections:
        """Turn records into columns.

        Args:
            records (list): Records with all fields that are needed.
            getter (Callable[[str], Callable]): Makes of a field's name what gets it from a record.

        Returns:
            LVISDetections: The records, with boxes and masks as the file needs them.

        Raises:
            ValueError: If something is not finite, unknown, or not of the size of its image.
            OverflowError: If an integer is too large.
        """

        def values(*fields: str) -> list:
            column = records
            for field in fields:
                column = map(getter(field), column)
            return list(column)

        image = _positions(values("image_id"), self.ground_truth.image_ids)
        category = _positions(values("category_id"), self.ground_truth.category_ids)
        score = _finite(values("score"))
        boxes, masks = None, None
        if self.with_boxes:
            boxes = _finite(list(chain.from_iterable(values("bbox")))).reshape(-1, 4)
        if self.with_masks:
            # Whether the runs fill the image is seen when the masks that count are measured.
            sizes = np.array(values("segmentation", "size"), dtype=np.float64).reshape(-1, 2)
            if not np.array_equal(sizes, self.ground_truth.image_sizes[image]):
                raise ValueError("the size of a mask")
            counts = (text.encode("ascii") for text in values("segmentation", "counts"))
            masks = np.fromiter(counts, dtype=object, count=len(records))
        return LVISDetections(image, category, score, boxes, masks)

    # --- all files --------------------------------------------------------------------------------

    def _read_carefully(self) -> Iterator[LVISDetections]:
        records = _iterate_records(self.path)
        rules = {}
        for start in count(0, _RECORDS_AT_ONCE):
            block = list(islice(records, _RECORDS_AT_ONCE))
            if start == 0:
                if self.with_masks:
                    self.with_boxes = any("bbox" in one for one in block[:1] if type(one) is dict)
                rules = self._rules()
            for number, record in enumerate(block, start):
                self._check(record, number, rules)
            yield self._columns(block, itemgetter)
            if len(block) < _RECORDS_AT_ONCE:
                return

    def _check(self, record: Any, number: int, rules: _Rules) -> None:
        for field, (is_sound, problem) in rules.items():
            if not isinstance(record, dict) or field not in record:
                self._refuse(record, number, f"is not an object with a field '{field}'")
            if not is_sound(record):
                self._refuse(record, number, f"has a '{field}' that {problem}")

    def _rules(self) -> _Rules:
        truth = self.ground_truth
        size_of = dict(zip(truth.image_ids.tolist(), truth.image_sizes.tolist(), strict=True))
        category_ids = set(truth.category_ids.tolist())

        def has_id(field: str, known: Container[int]) -> tuple[Callable[[dict], bool], str]:
            return (
                lambda record: type(record[field]) is int and record[field] in known,
                f"is not in {self.ann_file}",
            )

        def has_box(record: dict) -> bool:
            box = record["bbox"]
            return isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))

        def has_mask(record: dict) -> bool:
            mask = record["segmentation"]
            return (
                isinstance(mask, dict)
                and mask.get("size") == size_of[record["image_id"]]
                and isinstance(mask.get("counts"), str)
                and mask["counts"].isascii()
            )

        rules = {
            "image_id": has_id("image_id", size_of),
            "category_id": has_id("category_id", category_ids),
            "score": (lambda record: _is_finite(record["score"]), "is no number"),
        }
        if self.with_boxes:
            rules["bbox"] = (has_box, "is not [x, y, width, height] in pixels")
        if self.with_masks:
            rules["segmentation"] = (
                has_mask,
                "is not compressed RLE, {'size': [height, width], 'counts': '...'}, of the size "
                "of its image",
            )
        return rules

    def _refuse(self, record: Any, number: int, problem: str) -> NoReturn:
        shown = repr(record)
        shown = shown if len(shown) <= 150 else shown[:147] + "..."
        raise UserError(
            f"{self.path}: record {number} {problem}: {shown}; correct the file, or give the one "
            "that belongs to this annotation file and metric."
        )


def _positions(values: list[int], known: np.ndarray) -> np.ndarray:
    """Positions of values among sorted ids."""
    column = np.array(values, dtype=np.int64)
    position = np.searchsorted(known, column).clip(max=len(known) - 1)
    if not np.array_equal(known[position], column):
        raise ValueError("an unknown id")
    return position


def _finite(values: list[float]) -> np.ndarray:
    column = np.array(values, dtype=np.float64)
    if not np.isfinite(column).all():
        raise ValueError("a number that is not finite")
    return column


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of a float
        return False


def _iterate_records(path: str) -> Iterator[Any]:
    """Decode a JSON list record by record, and tell where it breaks."""
    text = _read_text(path)
    position = _SPACE.match(text).end()
    if text[position : position + 1] != "[":
        raise UserError(
            f"{path}: holds no JSON list; a result file is a list of records with 'image_id', "
            "'category_id', 'score' and 'bbox' or 'segmentation'."
        )
    position += 1
    decode = json.JSONDecoder().raw_decode
    position = _SPACE.match(text, position).end()
    is_open = text[position : position + 1] != "]"
    while is_open:
        try:
            record, position = decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            _refuse_json(path, text, getattr(error, "pos", position))
        yield record
        position = _SPACE.match(text, position).end()
        if text[position : position + 1] not in (",", "]"):
            _refuse_json(path, text, position)
        is_open = text[position] == ","
        if is_open:
            position = _SPACE.match(text, position + 1).end()
    end = _SPACE.match(text, position + 1).end()
    if end < len(text):
        _refuse_json(path, text, end)


def _refuse_json(path: str, text: str, position: int) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    problem = "is cut off" if not text[position:].strip() else "is not JSON"
    raise UserError(
        f"{path}: {problem} (line {line}, character {position:,} of {len(text):,}); write the "
        "result file again."
    )


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such result file; test with 'outfile_prefix' set in the evaluator to "
            "write one."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a JSON text file; give the .json file itself.") from None
