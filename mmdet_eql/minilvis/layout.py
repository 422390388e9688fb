"""Where the objects of an image lie, and which of them hide others.

Glossary:
    S: side of an image in px.
    F: :data:`SUPERSAMPLING`; objects are laid out on a grid of F x F points per pixel, so that
        edges are smooth in the image and polygons are finer than a pixel.
    outline: points in px, float64 of shape (NUM_ANGLES, 2), x before y; the pixel in row i and
        column j covers [j, j + 1) x [i, i + 1), as in COCO polygons.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from mmdet_eql.minilvis.config import MiniLVISConfig
from mmdet_eql.minilvis.vocabulary import ANGLES, Category, shape_outline

SUPERSAMPLING = 4
#: Every object keeps at least this share of its area in view, so that it can be recognized.
MIN_VISIBLE_SHARE = 0.4
#: At least this share lies inside the image.
MIN_INSIDE_SHARE = 0.7
#: Objects are turned by at most this angle, in radians.
MAX_LEAN = 0.45

# Fixed-point bits of cv2's drawing functions.
FIXED_POINT_BITS = 4
_TRIES = 60


class PlacedObject(NamedTuple):
    """An object's place.

    Args:
        outline (np.ndarray): Its outline.
        pixels (tuple[slice, slice]): Rows and columns of its box of whole pixels in the image.
        mask (np.ndarray): The object in that box of h x w px, hidden or not: 1 inside, else 0;
            uint8 of shape (F * h, F * w).
    """

    outline: np.ndarray
    pixels: tuple[slice, slice]
    mask: np.ndarray


def lay_out(
    shown: list[Category], config: MiniLVISConfig, rng: np.random.Generator
) -> tuple[list[PlacedObject], np.ndarray] | None:
    """Place objects, from the backmost to the frontmost, so that each stays in view.

    An object that finds no place shrinks; None if it finds none at the smallest size either.
    Returns the objects, and which of them is seen: uint8 of shape (F * S, F * S), 0 for none, else
    1 + the index of the object.
    """
    size = config.image_size
    smallest, largest = config.object_diameter
    owner = np.zeros((SUPERSAMPLING * size, SUPERSAMPLING * size), dtype=np.uint8)
    # The index 0 stands for no object.
    needed = np.zeros(len(shown) + 1)
    visible = np.zeros(len(shown) + 1)
    objects, discs = [], []
    for number, category in enumerate(shown, start=1):
        # Small objects are more frequent than large ones, as in LVIS.
        diameter = smallest * (largest / smallest) ** (rng.random() ** 1.3)
        outline = _instance_outline(category, config, rng)
        area = float(cv2.contourArea(outline.astype(np.float32))) * SUPERSAMPLING**2
        for _ in range(_TRIES):
            centre = rng.uniform(0, size, 2)
            if discs and rng.random() < 0.4:
                # Things that lie together and overlap are no accident in photographs.
                near, its_diameter = discs[rng.integers(len(discs))]
                angle = rng.uniform(0, 2 * np.pi)
                distance = rng.uniform(0.6, 1.1) * (its_diameter + diameter) / 2
                centre = near + distance * np.array([np.cos(angle), np.sin(angle)])
            item = _place(centre + diameter * outline, size)
            ends = ((SUPERSAMPLING * s.start, SUPERSAMPLING * s.stop) for s in item.pixels)
            beneath = owner[tuple(slice(*pair) for pair in ends)]
            # cv2's histogram is several times as fast as NumPy's.
            bins = len(visible)
            behind = cv2.calcHist([beneath], [0], item.mask, [bins], [0, bins]).reshape(-1)
            left_over = visible - behind
            in_view = np.all(left_over[1:number] >= needed[1:number])
            if in_view and behind.sum() >= MIN_INSIDE_SHARE * area * diameter**2:
                break
            diameter = max(smallest, 0.96 * diameter)
        else:
            return None
        np.copyto(beneath, np.uint8(number), where=item.mask > 0)
        visible = left_over
        visible[number] = behind.sum()
        needed[number] = MIN_VISIBLE_SHARE * area * diameter**2
        objects.append(item)
        discs.append((centre, diameter))
    return objects, owner


def to_fixed_point(outline: np.ndarray, scale: int = 1) -> np.ndarray:
    """Convert points in px, shape (P, 2), to those that cv2 draws with ``shift=FIXED_POINT_BITS``.

    ``scale`` is the number of points of the canvas per pixel; the result is int32.
    """
    # A point of the canvas stands for its centre, half a step from the corner that cv2 counts from.
    return np.rint((outline * scale - 0.5) * 2**FIXED_POINT_BITS).astype(np.int32)


def _instance_outline(
    category: Category, config: MiniLVISConfig, rng: np.random.Generator
) -> np.ndarray:
    """Outline of one object, turned and a little out of shape, at unit equivalent diameter."""
    radius = shape_outline(category.shape, config.confusability) * np.sqrt(np.pi) / 2
    phase = rng.uniform(0, 2 * np.pi, 3)
    amplitude = rng.normal(0, 0.018, 3)
    for harmonic in range(3):
        wave = np.cos((harmonic + 2) * ANGLES + phase[harmonic])
        radius = radius * (1 + amplitude[harmonic] * wave)
    points = np.stack([radius * np.cos(ANGLES), radius * np.sin(ANGLES)], axis=1)
    stretch = np.exp(rng.normal(0, 0.07))
    points *= [stretch, 1 / stretch]
    # Things stand upright as a rule, leaning a little.
    angle = rng.uniform(-MAX_LEAN, MAX_LEAN)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ turn


def _place(outline: np.ndarray, size: int) -> PlacedObject:
    (x_min, y_min), (x_max, y_max) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
    left, top = (min(max(math.floor(v) - 1, 0), size - 1) for v in (x_min, y_min))
    # An outline beside the image gets a box at its border in which nothing is inside.
    right = max(min(math.ceil(x_max) + 1, size), left + 1)
    bottom = max(min(math.ceil(y_max) + 1, size), top + 1)
    mask = np.zeros((SUPERSAMPLING * (bottom - top), SUPERSAMPLING * (right - left)), np.uint8)
    points = to_fixed_point(outline - [left, top], SUPERSAMPLING)
    cv2.fillPoly(mask, [points], 1, lineType=cv2.LINE_8, shift=FIXED_POINT_BITS)
    return PlacedObject(outline, (slice(top, bottom), slice(left, right)), mask)
