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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NoReturn, TextIO

import numpy as np
from mmengine.logging import print_log

from mmdet_eql.datasets.lvis_format import load_lvis_json
from mmdet_eql.errors import UserError
from mmdet_eql.evaluation.lvis_evaluation import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    LVISDetections,
    LVISEvaluation,
    LVISGroundTruth,
    evaluate_detections,
)
from mmdet_eql.files import atomic_write
from mmdet_eql.garbage_collection import pause_garbage_collection

# A file is decoded in pieces, so that no more than a piece exists as Python objects.
_CHARACTERS_AT_ONCE = 1 << 18
_SPACE = re.compile(r"[ \t\r\n]*")
_BETWEEN_RECORDS = re.compile(r"\}[ \t\r\n]*,[ \t\r\n]*\{")


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
    reader = _RecordReader(path, ground_truth, iou_type, ann_file)
    with pause_garbage_collection():
        for records in _blocks_of_records(path):
            reader.add(records)
    if iou_type == "segm" and reader.with_boxes:
        print_log(
            f"{path}: the records hold 'bbox' beside 'segmentation'; as in lvis-api, APs, APm and "
            "APl then go by the areas of the boxes. Remove 'bbox' to go by the areas of the masks.",
            logger="current",
            level=logging.WARNING,
        )
    return reader.detections()


class _RecordReader:
    """Turns blocks of records into columns, and tells what is wrong with a record."""

    def __init__(
        self, path: str, ground_truth: LVISGroundTruth, iou_type: str, ann_file: str
    ) -> None:
        self.path = path
        self.ann_file = ann_file
        self.ground_truth = ground_truth
        self.with_boxes = iou_type == "bbox"
        self.with_masks = iou_type == "segm"
        self.num_records = 0
        self.blocks: list[LVISDetections] = []

    def add(self, records: list) -> None:
        """Check a block of records and keep its columns."""
        if not self.num_records and self.with_masks and isinstance(records[0], dict):
            self.with_boxes = "bbox" in records[0]
        image = self._positions(records, "image_id", self.ground_truth.image_ids)
        category = self._positions(records, "category_id", self.ground_truth.category_ids)
        score = self._numbers(records, "score")
        boxes = self._boxes(records) if self.with_boxes else None
        masks = self._masks(records, image) if self.with_masks else None
        self.blocks.append(LVISDetections(image, category, score, boxes, masks))
        self.num_records += len(records)

    def detections(self) -> LVISDetections:
        """All blocks as one."""
        empty = LVISDetections(
            image=np.zeros(0, dtype=np.int64),
            category=np.zeros(0, dtype=np.int64),
            score=np.zeros(0),
            boxes=np.zeros((0, 4)) if self.with_boxes else None,
            masks=np.zeros(0, dtype=object) if self.with_masks else None,
        )
        return LVISDetections.concatenate([empty, *self.blocks])

    def _numbers(self, records: list, field: str) -> np.ndarray:
        values = self._values(records, field)
        # Types first: NumPy would read the text "1" as a number.
        if set(map(type, values)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                column = np.array(values, dtype=np.float64)
                if np.isfinite(column).all():
                    return column
        self._refuse_first(
            records, lambda record: _is_finite(record[field]), f"has a '{field}' that is no number"
        )

    def _boxes(self, records: list) -> np.ndarray:
        boxes = self._values(records, "bbox")
        if set(map(type, boxes)) == {list} and set(map(len, boxes)) == {4}:
            values = list(chain.from_iterable(boxes))
            if set(map(type, values)) <= {int, float}:
                with contextlib.suppress(OverflowError):
                    column = np.array(values, dtype=np.float64)
                    if np.isfinite(column).all():
                        return column.reshape(-1, 4)
        self._refuse_first(
            records,
            lambda record: (
                isinstance(record["bbox"], list)
                and len(record["bbox"]) == 4
                and all(map(_is_finite, record["bbox"]))
            ),
            "has a 'bbox' that is not [x, y, width, height] in pixels",
        )

    def _positions(self, records: list, field: str, known: np.ndarray) -> np.ndarray:
        values = self._values(records, field)
        if set(map(type, values)) == {int}:
            with contextlib.suppress(OverflowError):
                column = np.array(values, dtype=np.int64)
                position = np.searchsorted(known, column).clip(max=len(known) - 1)
                if np.array_equal(known[position], column):
                    return position
        known_ids = set(known.tolist())
        self._refuse_first(
            records,
            lambda record: type(record[field]) is int and record[field] in known_ids,
            f"has a '{field}' that is not in {self.ann_file}",
        )

    def _masks(self, records: list, image: np.ndarray) -> np.ndarray:
        # Whether the runs fill the image is seen when the masks that count are measured.
        sizes = self.ground_truth.image_sizes[image].tolist()
        masks = np.empty(len(records), dtype=object)
        try:
            for index, (record, size) in enumerate(zip(records, sizes, strict=True)):
                segmentation = record["segmentation"]
                if segmentation["size"] != size:
                    raise ValueError
                masks[index] = segmentation["counts"].encode("ascii")
        except (TypeError, KeyError, AttributeError, ValueError):
            self._refuse(
                records,
                index,
                "has a 'segmentation' that is not compressed RLE, {'size': [height, width], "
                "'counts': '...'}, of the size of its image",
            )
        return masks

    def _values(self, records: list, field: str) -> list:
        try:
            return list(map(itemgetter(field), records))
        except (TypeError, KeyError):
            self._refuse_first(
                records,
                lambda record: isinstance(record, dict) and field in record,
                f"is not an object with a field '{field}'",
            )

    def _refuse_first(self, records: list, is_sound: Callable, problem: str) -> NoReturn:
        index = next(index for index, record in enumerate(records) if not is_sound(record))
        self._refuse(records, index, problem)

    def _refuse(self, records: list, index: int, problem: str) -> NoReturn:
        shown = repr(records[index])
        shown = shown if len(shown) <= 150 else shown[:147] + "..."
        raise UserError(
            f"{self.path}: record {self.num_records + int(index)} {problem}: {shown}; correct the "
            "file, or give the one that belongs to this annotation file and metric."
        )


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of a float
        return False


def _blocks_of_records(path: str) -> Iterator[list]:
    """Decode a JSON list of records piece by piece."""
    text = _read_text(path)
    position = _SPACE.match(text).end()
    if text[position : position + 1] != "[":
        raise UserError(
            f"{path}: holds no JSON list; a result file is a list of records with 'image_id', "
            "'category_id', 'score' and 'bbox' or 'segmentation'."
        )
    position += 1
    while between := _BETWEEN_RECORDS.search(text, position + _CHARACTERS_AT_ONCE):
        try:
            records = json.loads(f"[{text[position : between.start() + 1]}]")
        except (json.JSONDecodeError, RecursionError):
            break  # not between records after all, or the file is broken here
        yield records
        position = between.end() - 1
    records = list(_iterate_records(path, text, position))
    if records:
        yield records


def _iterate_records(path: str, text: str, position: int) -> Iterator[Any]:
    """Decode the rest of a JSON list record by record, and tell where it breaks."""
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
