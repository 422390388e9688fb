"""Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562), as the LVIS Challenge 2021 applies it.

The IoU of two masks is the lower one of that of the masks and that of their boundaries. The
boundary of a mask is what erosion by a square of 3 x 3 pixels, d times, takes away, with
d = max(1, round(0.02 x diagonal of the image)); outside the image there is no mask.
"""

import functools
from collections.abc import Callable

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth
from mmdet_eql.evaluation.matches import plain_iou

_DILATION_RATIO = 0.02


def boundary_iou(
    ground_truth: LVISGroundTruth, detections: LVISDetections, lowest: float
) -> Callable:
    """Return the IoU of boundaries for :func:`mmdet_eql.evaluation.matches.match_detections`.

    Boundaries are computed where the IoU of the masks is ``lowest`` or more, the lowest threshold;
    others stay below it, whatever their boundaries.
    """
    of_masks = plain_iou(ground_truth, detections, with_masks=True)

    def iou(image: int, found: np.ndarray, objects: np.ndarray) -> np.ndarray:
        size = ground_truth.image_sizes[image].tolist()
        values = of_masks(image, found, objects)
        boundary = functools.cache(lambda counts: Boundary(counts, size))
        for row, column in np.argwhere(values >= lowest).tolist():
            ours = boundary(detections.masks[found[row]])
            theirs = boundary(ground_truth.masks[objects[column]])
            # A mask that erosion leaves nothing of is its own boundary.
            if not (ours.is_whole and theirs.is_whole):
                values[row, column] = min(values[row, column], ours.iou(theirs))
        return values

    return iou


class Boundary:
    """The boundary of a mask, within the box around the mask.

    Args:
        counts (bytes): Compressed RLE ``counts``.
        size (list[int]): Height and width of the image in pixels.

    Attributes:
        is_whole (bool): Whether the boundary is all of the mask.
    """

    def __init__(self, counts: bytes, size: list[int]) -> None:
        self._rle = {"size": size, "counts": counts}
        self._box = [int(value) for value in mask_utils.toBbox(self._rle)]
        diagonal = np.sqrt(size[0] ** 2 + size[1] ** 2)
        self._distance = max(1, round(_DILATION_RATIO * diagonal))
        self.is_whole = min(self._box[2:]) <= 2 * self._distance

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """The boundary within its box, bool of shape (height, width)."""
        from scipy import ndimage

        x, y, width, height = self._box
        mask = mask_utils.decode(self._rle)[y : y + height, x : x + width]
        pixels = mask.astype(bool)
        if not self.is_whole:
            # What d erosions leave is no boundary; around the box there is no mask.
            left = ndimage.minimum_filter(mask, 2 * self._distance + 1, mode="constant")
            pixels &= left == 0
        return pixels

    def iou(self, other: "Boundary") -> float:
        """Return the IoU of two boundaries in one image."""
        ours, theirs = self.pixels, other.pixels
        boxes = np.array([self._box, other._box])
        left, top = boxes[:, :2].max(axis=0).tolist()
        right, bottom = (boxes[:, :2] + boxes[:, 2:]).min(axis=0).tolist()
        if right <= left or bottom <= top:
            return 0.0
        parts = [
            pixels[top - y : bottom - y, left - x : right - x]
            for pixels, (x, y, _, _) in ((ours, self._box), (theirs, other._box))
        ]
        common = np.count_nonzero(parts[0] & parts[1])
        return common / (np.count_nonzero(ours) + np.count_nonzero(theirs) - common)
