"""Augmentation of image classification that MMCV lacks.

Each step replaces ``img``, uint8 of shape (H, W, 3); random draws are by NumPy's global generator.
"""

import math
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from mmdet_eql.utils.errors import UserError


@TRANSFORMS.register_module()
class PaddedRandomCrop(BaseTransform):
    """Pad each side with ``padding`` zeros, then cut out a random window of the original size."""

    def __init__(self, padding: int = 4) -> None:
        if padding < 0:
            raise UserError(f"PaddedRandomCrop: padding is {padding}; it must be at least 0.")
        self.padding = padding

    def transform(self, results: dict) -> dict:
        """Shift the image by up to ``padding`` pixels."""
        image = results["img"]
        height, width = image.shape[:2]
        top, left = np.random.randint(-self.padding, self.padding + 1, size=2) + self.padding
        padded = cv2.copyMakeBorder(image, *[self.padding] * 4, cv2.BORDER_CONSTANT)
        results["img"] = padded[top : top + height, left : left + width]
        return results


@TRANSFORMS.register_module()
class RandomResizedCrop(BaseTransform):
    """Cut out a random part, and resize it to a square.

    Args:
        size (int): Side of the result in px.
        area (Sequence[float]): Least and greatest share of the image's area.
        aspect (Sequence[float]): Least and greatest width over height.
    """

    def __init__(
        self, size: int, area: Sequence[float] = (0.08, 1), aspect: Sequence[float] = (3 / 4, 4 / 3)
    ) -> None:
        if not 0 < area[0] <= area[1] <= 1 or not 0 < aspect[0] <= aspect[1]:
            raise UserError(
                f"RandomResizedCrop: area is {tuple(area)} and aspect {tuple(aspect)}; each is a "
                "least and a greatest value, area within (0, 1]."
            )
        self.size = size
        self.area = area
        self.aspect = np.log(aspect)

    def transform(self, results: dict) -> dict:
        """Cut out and resize."""
        top, left, height, width = self._choose(*results["img"].shape[:2])
        part = results["img"][top : top + height, left : left + width]
        results["img_shape"] = (self.size, self.size)
        results["img"] = mmcv.imresize(part, results["img_shape"])
        return results

    def _choose(self, height: int, width: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = height * width * np.random.uniform(*self.area)
            aspect = math.exp(np.random.uniform(*self.aspect))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = np.random.randint(height - h + 1)
                return top, np.random.randint(width - w + 1), h, w
        # Nothing fits into a very long image: take its middle, as square as allowed.
        low, high = np.exp(self.aspect)
        w = min(width, round(height * high))
        h = min(height, round(width / low))
        return (height - h) // 2, (width - w) // 2, h, w


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Change brightness, contrast and saturation in random order by random factors, uniform in
    [1 - strength, 1 + strength]."""

    def __init__(self, strength: float = 0.4) -> None:
        if not 0 <= strength <= 1:
            raise UserError(f"ColorJitter: strength is {strength}; it must be between 0 and 1.")
        self.strength = strength

    def transform(self, results: dict) -> dict:
        """Blend the image with black, with its mean grey and with itself in grey."""
        image = results["img"].astype(np.float32)
        for step in np.random.permutation(3):
            factor = np.float32(np.random.uniform(1 - self.strength, 1 + self.strength))
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
            other = (0, grey.mean(), grey)[step]
            image = np.clip(other + factor * (image - other), 0, 255)
        results["img"] = np.rint(image).astype(np.uint8)
        return results


@TRANSFORMS.register_module()
class PackLabelledImage(BaseTransform):
    """Pack ``inputs``, uint8 of shape (3, H, W), and ``data_samples``, the label, for
    ``ImageClassifier``; the data loader needs ``collate_fn=dict(type="default_collate")``."""

    def transform(self, results: dict) -> dict:
        """Keep image and label."""
        image = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        return dict(inputs=torch.from_numpy(image), data_samples=results["gt_label"])
