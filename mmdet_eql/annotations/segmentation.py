"""Whether a segmentation of an annotation file can be handed to pycocotools.

pycocotools trusts its input: counts that do not fill the image, or polygons far outside it, read or
take memory that is not theirs, and end the interpreter.
"""

import json
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from mmdet_eql.utils.rle import count_pixels

#: States of a segmentation: none is given, all of it can be used, some polygons are left out since
#: they have fewer than three points, nothing can be used.
NONE, WHOLE, PARTLY, UNUSABLE = range(4)
#: Polygons may leave their image by as many times its size.
_MARGIN = 10
#: Whatever has three digits before its point is within the margin of images of 100 pixels.
_PLAIN_LIMIT = 1000
_BYTES_AT_ONCE = 1 << 18


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
    for one in segmentation:  # a generator would take several times as long
        if type(one) is not list or len(one) < 6 or len(one) % 2:
            break
    else:
        return segmentation or None
    polygons = [segmentation] if _are_numbers(segmentation) else segmentation
    return [polygon for polygon in polygons if not _is_degenerate(polygon)] or None


def segmentation_states(text: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Say whether segmentations can be used: NONE, WHOLE, PARTLY or UNUSABLE.

    Args:
        text (np.ndarray): JSON of N segmentations, one after another, uint8.
        starts (np.ndarray): Where each begins and the last one ends, int64 of shape (N + 1,).
        sizes (np.ndarray): Height and width of their images in pixels, int64 of shape (N, 2).

    Returns:
        np.ndarray: uint8 of shape (N,).
    """
    states = np.zeros(len(sizes), dtype=np.uint8)
    limits = _MARGIN * sizes.max(axis=1, initial=0)
    # Nearly all are plain polygons, which are told without decoding them.
    blocks = np.searchsorted(starts, np.arange(0, starts[-1], _BYTES_AT_ONCE)).tolist()
    for first, last in pairwise([*blocks, len(sizes)]):
        plain = _are_plain(text[starts[first] : starts[last]], starts[first : last + 1])
        states[first:last][plain & (limits[first:last] >= _PLAIN_LIMIT)] = WHOLE
    rle_index, rle_counts = [], []
    for index in np.flatnonzero(states != WHOLE).tolist():
        segmentation = decode_segmentation(text[starts[index] : starts[index + 1]].tobytes())
        height, width = sizes[index].tolist()
        if _is_compressed(segmentation, height, width):
            rle_index.append(index)
            rle_counts.append(segmentation["counts"].encode("ascii"))
        elif segmentation:
            states[index] = _state(segmentation, height, width)
    if rle_index:
        # One by one, counting takes as long as reading all the rest.
        fills = count_pixels(rle_counts)[1] == sizes[rle_index].prod(axis=1)
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


def _are_plain(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether JSON texts are lists of polygons of at least three points, below ``_PLAIN_LIMIT``.

    False for some that are, such as those with exponents or with spaces beside brackets.
    """
    num = len(starts) - 1
    bounds = starts - starts[0]
    is_digit, is_open, is_comma = text - 48 < 10, text == ord("["), text == ord(",")
    is_close, is_point, is_minus = text == ord("]"), text == ord("."), text == ord("-")
    known = is_digit | is_open | is_comma | is_close | is_point | is_minus | (text == ord(" "))
    # Four digits that neither a digit nor a point precedes.
    is_long = is_digit[:-4] | is_point[:-4]
    is_long = ~is_long & is_digit[1:-3] & is_digit[2:-2] & is_digit[3:-1] & is_digit[4:]
    brackets = np.flatnonzero(is_open)
    begin = brackets[(is_digit | is_minus)[(brackets + 1).clip(max=len(text) - 1)]]
    end = np.flatnonzero(is_close)
    end = end[is_digit[end - 1]] - 1
    if len(begin) != len(end) or (begin > end).any() or (begin[1:] < end[:-1]).any():
        return np.zeros(num, dtype=bool)

    def texts_of(positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(bounds, positions, side="right") - 1

    comma = np.flatnonzero(is_comma)
    num_numbers = np.searchsorted(comma, end) - np.searchsorted(comma, begin) + 1
    is_polygon = (num_numbers >= 6) & (num_numbers % 2 == 0)
    num_brackets = np.bincount(texts_of(brackets), minlength=num)
    num_polygons = np.bincount(texts_of(begin[is_polygon]), minlength=num)
    plain = (num_polygons > 0) & (num_brackets == num_polygons + 1)
    for unusual, offset in ((~known, 0), (is_long, 1)):
        if unusual.any():
            plain[texts_of(np.flatnonzero(unusual) + offset)] = False
    return plain


def _is_compressed(segmentation: Any, height: int, width: int) -> bool:
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return False
    counts = segmentation.get("counts")
    return isinstance(counts, str) and counts.isascii()


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
    if not isinstance(counts, str) or not counts.isascii():
        return None
    return int(count_pixels([counts.encode("ascii")])[1][0])
