"""Whether a segmentation of an annotation file can be handed to pycocotools.

pycocotools trusts its input: counts that do not fill the image, or polygons far outside it, read or
take memory that is not theirs, and end the interpreter.
"""

from typing import Any

import numpy as np

from mmdet_eql.utils.rle import count_pixels

#: Polygons may leave their image by as many times its size.
_MARGIN = 10


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


def _is_polygon(polygon: Any, limit: float) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not all(type(value) in (int, float) for value in polygon):
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
