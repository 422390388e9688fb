"""Whether a segmentation of an annotation file can be handed to pycocotools.

pycocotools trusts its input: counts that do not fill the image, or polygons far outside it, read or
take memory that is not theirs, and end the interpreter.
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from mmdet_eql.utils.rle import count_pixels

#: States of a segmentation: none is given, all of it can be used, some polygons are left out since
#: they have fewer than three points, nothing can be used.
NONE, WHOLE, PARTLY, UNUSABLE = range(4)
#: Polygons may leave their image by as many times its size.
_MARGIN = 10
_decode_polygons = msgspec.json.Decoder(list[list[float]]).decode


def decode_segmentation(text: bytes | memoryview) -> Any:
    """Decode what an annotation file holds as ``segmentation``."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError):
        # Python's own decoder also reads NaN and numbers of any size.
        return json.loads(bytes(text).decode("utf-8", "replace"))


def usable_part(segmentation: Any) -> Any:
    """Leave out polygons of fewer than three points or half a point; None if nothing is left.

    A single polygon need not be in a list of its own.
    """
    if not isinstance(segmentation, list):
        return segmentation or None
    polygons = [segmentation] if _are_numbers(segmentation) else segmentation
    return [polygon for polygon in polygons if not _is_degenerate(polygon)] or None


def segmentation_states(texts: Iterable[bytes | memoryview], sizes: np.ndarray) -> np.ndarray:
    """Say whether segmentations can be used: NONE, WHOLE, PARTLY or UNUSABLE.

    Args:
        texts (Iterable[bytes | memoryview]): JSON of N segmentations.
        sizes (np.ndarray): Height and width of their images in pixels, int64 of shape (N, 2).

    Returns:
        np.ndarray: uint8 of shape (N,).
    """
    states = np.zeros(len(sizes), dtype=np.uint8)
    limits = (_MARGIN * sizes.max(axis=1, initial=0)).tolist()
    rle_index, rle_counts = [], []
    for index, (text, limit) in enumerate(zip(texts, limits, strict=True)):
        if text in (b"null", b"[]", b"[[]]"):
            continue
        try:
            states[index] = WHOLE if _all_usable(_decode_polygons(text), limit) else UNUSABLE
        except (msgspec.DecodeError, ValueError):
            states[index] = UNUSABLE
        if states[index] == WHOLE:
            continue
        height, width = sizes[index].tolist()
        segmentation = decode_segmentation(text)
        if _is_compressed(segmentation, height, width):
            rle_index.append(index)
            rle_counts.append(segmentation["counts"].encode("ascii"))
        else:
            states[index] = _state(segmentation, height, width)
    if rle_index:
        # One by one, counting takes as long as reading all the rest.
        fills = _fills(rle_counts, sizes[rle_index].prod(axis=1))
        states[rle_index] = np.where(fills, WHOLE, UNUSABLE)
    return states


def segmentation_problem(segmentation: Any, height: int, width: int) -> str | None:
    """Say what a segmentation of an image of this size (pixels) must be, or None if it is that."""
    if isinstance(segmentation, list):
        limit = _MARGIN * max(height, width)
        if segmentation and all(_is_polygon(polygon, limit) for polygon in segmentation):
            return None
        return (
            "it must be a list of polygons [x1, y1, x2, y2, ...] with at least three points each, "
            "in pixels of its image, or RLE"
        )
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return f"RLE must have the size of its image, {[height, width]} (height, width)"
    num_pixels = _num_pixels(segmentation.get("counts"))
    if num_pixels == height * width:
        return None
    return f"the counts of its RLE must fill the {height * width:,} pixels of its image"


def _state(segmentation: Any, height: int, width: int) -> int:
    part = usable_part(segmentation)
    if part is None:
        given = segmentation and (not isinstance(segmentation, list) or any(segmentation))
        return UNUSABLE if given else NONE
    if segmentation_problem(part, height, width) is not None:
        return UNUSABLE
    is_list = isinstance(segmentation, list) and not _are_numbers(segmentation)
    return PARTLY if is_list and len(part) < len(segmentation) else WHOLE


def _all_usable(polygons: list[list[float]], limit: float) -> bool:
    return bool(polygons) and all(
        len(polygon) >= 6
        and len(polygon) % 2 == 0
        and -limit <= min(polygon)
        and max(polygon) <= limit
        for polygon in polygons
    )


def _is_compressed(segmentation: Any, height: int, width: int) -> bool:
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return False
    counts = segmentation.get("counts")
    return isinstance(counts, str) and counts.isascii()


def _fills(counts: list[bytes], num_pixels: np.ndarray) -> np.ndarray:
    try:
        return count_pixels(counts)[1] == num_pixels
    except Exception:  # whatever a string is that is no RLE: find out which
        each = [_num_pixels(one.decode("ascii")) for one in counts]
        return np.array(each, dtype=object) == num_pixels


def _are_numbers(values: list) -> bool:
    return bool(values) and all(type(value) in (int, float) for value in values)


def _is_degenerate(polygon: Any) -> bool:
    if not isinstance(polygon, list) or (len(polygon) >= 6 and len(polygon) % 2 == 0):
        return False
    return not polygon or _are_numbers(polygon)


def _is_polygon(polygon: Any, limit: float) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not _are_numbers(polygon):
        return False
    try:
        # A comparison with NaN is false.
        return bool((np.abs(np.array(polygon, dtype=np.float64)) <= limit).all())
    except OverflowError:
        return False


def _num_pixels(counts: Any) -> int | None:
    if isinstance(counts, list):
        valid = all(type(run) is int and 0 <= run < 2**32 for run in counts)
        return sum(counts) if valid else None
    try:
        _, (num_pixels,) = count_pixels([counts.encode("ascii")])
    except Exception:  # whatever a string is that is no RLE
        return None
    return int(num_pixels)
