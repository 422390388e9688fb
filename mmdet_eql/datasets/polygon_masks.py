"""Masks of training images that stay polygons until their pixels are asked for.

MMDetection draws every polygon as a bitmap of the image's size, which is then resized, flipped,
copied and sent to the training process; there the mask head cuts a target of 28 x 28 pixels from
it. Here resizing, flipping, padding and cropping only note the map from annotation to image, and
the target is drawn from the polygon itself:

    LoadPolygonAnnotations -> Resize -> RandomFlip -> PackDetInputs -> mask head: crop_and_resize

Glossary:
    N: number of masks, or of RoIs in :meth:`LazyBitmapMasks.crop_and_resize`.
    h, w: height and width of what is drawn, in pixels.
"""

import copy
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from pycocotools import mask as coco_mask
from torch import Tensor

#: pycocotools walks along every edge; corners may lie as many times the drawn size outside of it.
_MARGIN = 100


class LazyBitmapMasks(BitmapMasks):
    """mmdet's ``BitmapMasks`` whose bitmaps are drawn when they are read.

    Indexing, resizing, flipping, padding with zeros, cropping and drawing mask targets use the
    polygons. Reading ``masks``, as all else does (CopyPaste, Mosaic, PointRend's head), draws the
    bitmaps and lets go of the polygons, since what reads the array may also change it.

    Polygons are drawn by pycocotools: a pixel belongs to a mask if its centre does. ``BitmapMasks``
    resizes bitmaps by nearest neighbours, and makes its targets by RoIAlign of the bitmap.

    Made by :meth:`from_polygons`; arguments are those of ``BitmapMasks``.

    Example:
        >>> square = np.array([2, 2, 6, 2, 6, 6, 2, 6])
        >>> masks = LazyBitmapMasks.from_polygons([[square]], height=8, width=8)
        >>> int(masks.flip("horizontal").resize((4, 4)).masks.sum())
        4
    """

    @classmethod
    def from_polygons(
        cls, polygons: Sequence[Sequence[np.ndarray]], height: int, width: int
    ) -> "LazyBitmapMasks":
        """Make masks of polygons.

        Args:
            polygons (Sequence[Sequence[np.ndarray]]): At least one polygon for each mask, each
                [x1, y1, x2, y2, ...] in pixels, of three points or more.
            height (int): Height of the image in pixels.
            width (int): Width of the image in pixels.
        """
        masks = cls([], height, width)
        masks._bitmaps = None
        masks._polygons = [
            [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts]
            for parts in polygons
        ]
        # Point (x, y) of a polygon lies at (x, y) * scale + offset in the image.
        masks._scale, masks._offset = np.ones(2), np.zeros(2)
        # Corners of the part of the image where masks may be: not in its padding.
        masks._window = np.array([[0.0, 0.0], [width, height]])
        return masks

    @property
    def masks(self) -> np.ndarray:
        """The bitmaps, uint8 of shape (N, height, width)."""
        if self._bitmaps is None:
            scale, shape = np.ones((len(self), 2)), (self.height, self.width)
            self.masks = self._draw(range(len(self)), scale, np.zeros_like(scale), shape)
        return self._bitmaps

    @masks.setter
    def masks(self, bitmaps: np.ndarray) -> None:
        self._bitmaps, self._polygons = bitmaps, None

    def __len__(self) -> int:
        return len(self._bitmaps if self._polygons is None else self._polygons)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_masks={len(self)}, height={self.height}, "
            f"width={self.width})"
        )

    def __getitem__(self, index: Any) -> BitmapMasks:
        """Return the masks of an integer, a slice, or an array or tensor of integers or bools."""
        if self._polygons is None:
            return super().__getitem__(index)
        chosen = np.arange(len(self))[index].reshape(-1).tolist()
        return self._with([self._polygons[i] for i in chosen])

    def rescale(self, scale: Any, interpolation: str = "nearest") -> BitmapMasks:
        """As ``BitmapMasks.rescale``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """As ``BitmapMasks.resize``."""
        if self._polygons is None:
            return super().resize(out_shape, interpolation)
        height, width = out_shape
        return self._moved((width / self.width, height / self.height), (0, 0), out_shape)

    def flip(self, flip_direction: str = "horizontal") -> BitmapMasks:
        """As ``BitmapMasks.flip``."""
        if self._polygons is None:
            return super().flip(flip_direction)
        flipped = np.array(
            {"horizontal": [1, 0], "vertical": [0, 1], "diagonal": [1, 1]}[flip_direction]
        )
        shape = self.height, self.width
        return self._moved(1 - 2 * flipped, flipped * (self.width, self.height), shape)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """As ``BitmapMasks.pad``."""
        if self._polygons is None or pad_val:
            return super().pad(out_shape, pad_val)
        return self._moved((1, 1), (0, 0), out_shape)

    def crop(self, bbox: np.ndarray) -> BitmapMasks:
        """As ``BitmapMasks.crop``."""
        if self._polygons is None:
            return super().crop(bbox)
        low, high = np.clip(bbox.reshape(2, 2), 0, (self.width, self.height))
        width, height = np.maximum(high - low, 1).tolist()
        return self._moved((1, 1), -low, (height, width))

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: tuple[int, int],
        inds: np.ndarray | Tensor,
        device: str | torch.device = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> BitmapMasks:
        """As ``BitmapMasks.crop_and_resize``; soft targets are made from bitmaps, as mmdet's."""
        if self._polygons is None or not binarize or not len(self):
            return super().crop_and_resize(bboxes, out_shape, inds, device, interpolation, binarize)
        corners = np.asarray(torch.as_tensor(bboxes).cpu(), dtype=np.float64).reshape(-1, 2, 2)
        low, size = corners[:, 0], np.maximum(corners[:, 1] - corners[:, 0], 1e-3)
        scale = np.array(out_shape[::-1]) / size
        targets = self._draw(torch.as_tensor(inds).tolist(), scale, -low * scale, out_shape)
        return BitmapMasks(targets, *out_shape)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BitmapMasks:
        """As ``BitmapMasks.cat``, also of both kinds of masks."""
        return BitmapMasks.cat(masks)

    def _with(self, polygons: list) -> "LazyBitmapMasks":
        """Return other polygons in the same place."""
        masks = copy.copy(self)
        masks._polygons = polygons
        return masks

    def _moved(
        self, scale: Sequence[float], offset: Sequence[float], shape: tuple[int, int]
    ) -> "LazyBitmapMasks":
        """Return the masks with (x, y) at (x, y) * scale + offset of an image of this shape."""
        masks = self._with(self._polygons)
        masks.height, masks.width = shape
        masks._scale, masks._offset = self._scale * scale, self._offset * scale + offset
        window = np.sort(self._window * scale + offset, axis=0)
        masks._window = np.clip(window, 0, (masks.width, masks.height))
        return masks

    def _draw(
        self, indices: Sequence[int], scale: np.ndarray, offset: np.ndarray, shape: tuple[int, int]
    ) -> np.ndarray:
        """Draw N masks, with pixel (x, y) of the image at (x, y) * scale + offset.

        Args:
            indices (Sequence[int]): Which masks, N times.
            scale (np.ndarray): Of x and y, float64 of shape (N, 2).
            offset (np.ndarray): Likewise.
            shape (tuple[int, int]): h and w.

        Returns:
            np.ndarray: uint8 of shape (N, h, w).
        """
        if not len(indices):
            return np.empty((0, *shape), dtype=np.uint8)
        height, width = shape
        parts = [part for index in indices for part in self._polygons[index]]
        num_parts = [len(self._polygons[index]) for index in indices]
        num_points = [len(part) for part in parts]
        mask_of_point = np.repeat(np.repeat(np.arange(len(indices)), num_parts), num_points)
        points = np.concatenate(parts) * self._scale + self._offset
        points = points * scale[mask_of_point] + offset[mask_of_point]
        far = _MARGIN * np.array([width, height])
        np.clip(points, -far, far, out=points)
        drawn = [part.ravel() for part in np.split(points, np.cumsum(num_points)[:-1])]
        rles, end = coco_mask.frPyObjects(drawn, height, width), np.cumsum(num_parts)
        bitmaps = coco_mask.decode(
            [
                rles[last - 1] if number == 1 else coco_mask.merge(rles[last - number : last])
                for number, last in zip(num_parts, end.tolist(), strict=True)
            ]
        )
        bitmaps = np.ascontiguousarray(bitmaps.transpose(2, 0, 1))
        (left, top), (right, bottom) = np.moveaxis(
            self._window * scale[:, None] + offset[:, None], 0, -1
        )[..., None]
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
        if not (columns.all() and rows.all()):
            bitmaps *= columns[:, None, :] & rows[:, :, None]
        return bitmaps


@TRANSFORMS.register_module()
class LoadPolygonAnnotations(LoadAnnotations):
    """mmdet's ``LoadAnnotations`` that leaves polygons as they are, as :class:`LazyBitmapMasks`.

    Images with a mask in RLE get mmdet's ``BitmapMasks``, for all their masks. What comes after it
    may be anything that takes ``BitmapMasks``.

    Args:
        **kwargs: As in mmdet's ``LoadAnnotations``, without ``poly2mask``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(poly2mask=True, **kwargs)

    def _load_masks(self, results: dict) -> None:
        masks = self._process_masks(results)
        if all(isinstance(mask, list) for mask in masks):
            results["gt_masks"] = LazyBitmapMasks.from_polygons(masks, *results["ori_shape"])
        else:
            super()._load_masks(results)
