"""Predicted masks as run-length encodings of the image's size, without bitmaps of that size.

The mask of a box has few cells (28x28), its image hundreds of thousands of pixels. Only the pixels
around the box are computed, and their runs are moved to where the box lies in the image.

N is the number of masks of an image, h and w are height and width of a mask in cells, H and W of
the image in pixels.
"""

import numpy as np
import pycocotools.mask as mask_utils
import torch
import torch.nn.functional as F
from torch import Tensor


def paste_as_rle(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float
) -> list[dict]:
    """Paste masks into an image and return N RLEs with ``size`` [H, W] and ``counts`` (bytes).

    The runs are those of mmdet's ``FCNMaskHead`` on the CPU (``_do_paste_mask`` on each mask, with
    ``skip_empty``) followed by ``pycocotools.mask.encode``, to the pixel. Interpolation in x does
    not depend on y, so it is done by two small matrix products; pixels too close to the threshold
    for rounding errors to be ruled out are left to ``grid_sample``, as mmdet has it.

    Args:
        masks (Tensor): Probabilities, shape (N, h, w), on any device.
        boxes (Tensor): x1, y1, x2, y2 in pixels of the image, shape (N, 4).
        image_size (tuple[int, int]): H and W.
        threshold (float): Pixels of this probability and above belong to the mask.

    Example:
        >>> rles = paste_as_rle(torch.ones(1, 4, 4), torch.tensor([[1., 2., 4., 7.]]), (8, 6), 0.5)
        >>> mask_utils.toBbox(rles).tolist()
        [[1.0, 2.0, 3.0, 5.0]]
    """
    masks = masks.detach().to("cpu", torch.float32)
    boxes = boxes.detach().cpu()
    height, width = image_size
    columns = _pixels_of_boxes(boxes[:, 0], boxes[:, 2], width)
    rows = _pixels_of_boxes(boxes[:, 1], boxes[:, 3], height)

    runs = []
    for mask, (left, x), (top, y) in zip(masks, columns, rows, strict=True):
        # As in RLE, the columns of the image come one after another, each from top to bottom. A
        # pixel outside before the first column and after each one ends all runs there.
        pixels = np.zeros(1 + len(x) * (len(y) + 1), dtype=bool)
        crop = pixels[1:].reshape(len(x), len(y) + 1)[:, : len(y)]
        _threshold(mask, x, y, threshold, crop)
        column, row = np.divmod(np.flatnonzero(pixels[1:] != pixels[:-1]), len(y) + 1)
        changes = (left + column) * height + top + row
        if len(y) == height:
            # Where a run that reaches the bottom goes on at the top, two changes coincide.
            first = np.flatnonzero(changes[1:] == changes[:-1])
            changes = np.delete(changes, np.concatenate([first, first + 1]))
        counts = np.diff(changes, prepend=0, append=height * width)
        if len(changes) and counts[-1] == 0:
            counts = counts[:-1]
        runs.append({"counts": counts, "size": [height, width]})
    return mask_utils.frPyObjects(runs, height, width) if runs else []


def _pixels_of_boxes(low: Tensor, high: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Along one axis, the pixels that each box covers, and one more on either side: the first, and
    the position of each pixel's centre in the box, from -1 to 1."""
    # Numbers that are not finite give no pixels.
    start = (low.floor() - 1).clamp(0, size).nan_to_num(size).long()
    stop = (high.ceil() + 1).clamp(0, size).nan_to_num(0).long()
    number = (stop - start).clamp(min=0)
    of_box = torch.arange(len(low)).repeat_interleave(number)
    before = number.cumsum(dim=0) - number
    pixel = torch.arange(len(of_box)) + (start - before)[of_box]
    # The arithmetic of mmdet's _do_paste_mask, for the same rounding.
    position = (pixel.to(torch.float32) + 0.5 - low[of_box]) / (high - low)[of_box] * 2 - 1
    position[position.isinf()] = 0
    return list(zip(start.tolist(), position.split(number.tolist()), strict=True))


def _threshold(mask: Tensor, x: Tensor, y: Tensor, threshold: float, inside: np.ndarray) -> None:
    """Write which pixels are inside a mask (h, w) to a bool array of shape (len(x), len(y)).

    x and y are the positions of the columns and rows of pixels in the box, from -1 to 1.
    """
    height, width = mask.shape
    values = _interpolation(x, width) @ mask.numpy().T @ _interpolation(y, height).T
    np.greater_equal(values, threshold, out=inside)

    # A position in cells, and with it the value, is uncertain by about one unit in its last place.
    tolerance = 8 * max(height, width) * np.finfo(np.float32).eps
    below, above = values < threshold - tolerance, values > threshold + tolerance
    if np.count_nonzero(below) + np.count_nonzero(above) < values.size:
        column, row = np.nonzero(~(below | above))
        grid = torch.stack([x[column], y[row]], dim=1)[None, None]
        exact = F.grid_sample(mask[None, None], grid, align_corners=False)
        inside[column, row] = exact[0, 0, 0].numpy() >= threshold


def _interpolation(position: Tensor, cells: int) -> np.ndarray:
    """Share of each cell in the value at each position, zero beyond the outer cells' centres, shape
    (len(position), cells)."""
    # Beyond -2 and 2 no cell counts; in boxes much thinner than a pixel, numbers there overflow.
    cell = ((position.numpy().clip(-3, 3) + 1) * cells - 1) / 2
    distance = np.abs(cell[:, None] - np.arange(cells, dtype=np.float32))
    return np.maximum(1 - distance, 0)
