"""Pixels of MiniLVIS: background regions, clutter, and objects in front of them.

S and F are those of :mod:`mmdet_eql.minilvis.layout`.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from mmdet_eql.minilvis.config import SPLITS, MiniLVISConfig
from mmdet_eql.minilvis.layout import (
    FIXED_POINT_BITS,
    SUPERSAMPLING,
    PlacedObject,
    lay_out,
    to_fixed_point,
)
from mmdet_eql.minilvis.planning import ImagePlan
from mmdet_eql.minilvis.vocabulary import (
    ANGLES,
    NUM_ANGLES,
    SHAPES,
    Category,
    hue_angle,
    shape_outline,
    texture_contrast,
)
from mmdet_eql.utils.errors import UserError

_RENDER_STREAM = 2
_SCENE_TRIES = 20


class Scene(NamedTuple):
    """A rendered image and what is seen where.

    Args:
        image (np.ndarray): BGR, uint8 of shape (S, S, 3).
        semantic (np.ndarray): Background regions, see :data:`BACKGROUND_KINDS`; uint8 (S, S).
        owner (np.ndarray): As :func:`lay_out` returns it.
    """

    image: np.ndarray
    semantic: np.ndarray
    owner: np.ndarray


def render_scene(
    plan: ImagePlan, categories: tuple[Category, ...], config: MiniLVISConfig
) -> Scene:
    """Draw one image, which depends on the plan, the options and the seed alone.

    Raises:
        UserError: If the objects do not fit into the image.
    """
    split = SPLITS.index(plan.split)
    shown = [categories[identifier - 1] for identifier in plan.category_ids]
    for attempt in range(_SCENE_TRIES):
        rng = np.random.default_rng([config.seed, _RENDER_STREAM, split, plan.image_id, attempt])
        layout = lay_out(shown, config, rng)
        if layout is None:
            continue
        objects, owner = layout
        image, semantic = _paint_background(config.image_size, rng)
        _paint_clutter(image, config, rng)
        image = image.astype(np.float32)
        for category, item in zip(shown, objects, strict=True):
            _paint_object(image, category, item, config, rng)
        centre = SUPERSAMPLING // 2
        semantic[owner[centre::SUPERSAMPLING, centre::SUPERSAMPLING] > 0] = 0
        return Scene(_expose(image, rng), semantic, owner)
    raise UserError(
        f"MiniLVIS: {len(shown)} objects do not fit into an image of {config.image_size} px; ask "
        "for fewer objects (max_objects) or a larger image_size."
    )


def _paint_background(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A few regions with wavy borders: BGR uint8 (S, S, 3), and their kinds uint8 (S, S)."""
    y, x = _grid(size)
    warped_x = x + 0.12 * size * _smooth_noise(size, 4, rng)
    warped_y = y + 0.12 * size * _smooth_noise(size, 4, rng)
    seeds = rng.uniform(0, size, (int(rng.integers(2, 6)), 2))
    region = np.zeros((size, size), dtype=np.uint8)
    nearest = np.full((size, size), np.inf, dtype=np.float32)
    for index, (seed_x, seed_y) in enumerate(seeds.tolist()):
        distance = (warped_x - seed_x) ** 2 + (warped_y - seed_y) ** 2
        region[distance < nearest] = index
        np.minimum(nearest, distance, out=nearest)

    kinds = rng.integers(len(BACKGROUND_KINDS), size=len(seeds))
    field = np.empty((size, size), dtype=np.float32)
    # Every region shades from one colour (at -1) to another (at 1), in 256 steps from -2 to 2.
    step = np.linspace(-0.5, 1.5, 256, dtype=np.float32)[:, None]
    colours = np.empty((len(seeds), 256, 3), dtype=np.uint8)
    for index, kind in enumerate(kinds.tolist()):
        texture = _BACKGROUNDS[BACKGROUND_KINDS[kind]](size, rng)
        np.copyto(field, texture, where=region == index)
        lightness, chroma, hue = rng.uniform(30, 85), rng.uniform(2, 34), rng.uniform(0, 360)
        depth = rng.uniform(5, 16)
        dark, bright = _lch_to_bgr(
            [lightness - depth, lightness + depth],
            [chroma, chroma * rng.uniform(0.4, 1.2)],
            [hue, hue + rng.normal(0, 25)],
        )
        colours[index] = np.clip(dark + step * (bright - dark), 0, 255)
    shade = np.clip((field + 2) * (255 / 4), 0, 255).astype(np.uint8)
    return colours[region, shade], (1 + kinds).astype(np.uint8)[region]


def _planks(size: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _turned_grid(size, rng)
    period = rng.uniform(9, 24) * size / 160
    # Every plank has a shade of its own, and a grain along it.
    plank = np.floor(u / period).astype(np.int64)
    shade = rng.uniform(-0.8, 0.8, 256).astype(np.float32)[plank % 256]
    return shade + 0.25 * np.sin(u * 5 / period + 2 * np.sin(v / period))


def _tiles(size: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _turned_grid(size, rng)
    period = rng.uniform(9, 26) * size / 160
    odd = (np.floor(u / period) + np.floor(v / period)) % 2 > 0
    return np.where(odd, np.float32(0.7), np.float32(-0.7))


def _foliage(size: int, rng: np.random.Generator) -> np.ndarray:
    coarse = _smooth_noise(size, 12, rng)
    return np.tanh(1.5 * (coarse + 0.6 * _smooth_noise(size, 30, rng)))


def _mesh(size: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _turned_grid(size, rng)
    frequency = np.pi / (rng.uniform(6, 13) * size / 160)
    lines = np.maximum(np.abs(np.sin(u * frequency)), np.abs(np.sin(v * frequency)))
    return 2 * lines**8 - 1


# Each takes the image's side and a random generator; float32 of shape (S, S), about -1 to 1.
_BACKGROUNDS = {
    "haze": lambda size, rng: _smooth_noise(size, 3, rng),
    "sand": lambda size, rng: 0.6 * rng.standard_normal((size, size), dtype=np.float32),
    "planks": _planks,
    "tiles": _tiles,
    "foliage": _foliage,
    "mesh": _mesh,
}
#: Kinds of background regions; a pixel of the semantic map holds 1 + the index of its kind, and 0
#: where it shows an object, annotated or not. Clutter belongs to the region it lies on.
BACKGROUND_KINDS = tuple(_BACKGROUNDS)


def _paint_clutter(image: np.ndarray, config: MiniLVISConfig, rng: np.random.Generator) -> None:
    """Draw what looks like something, yet is no category: blobs, hollow shapes, strokes, specks."""
    size = config.image_size
    share = (size / 160) ** 2
    smallest, largest = config.object_diameter

    for _ in range(rng.poisson(3 * share)):
        # Irregular blobs as large as objects; most are duller than any object, some are not.
        radius = np.ones(NUM_ANGLES)
        for harmonic in range(1, 6):
            phase = rng.uniform(0, 2 * np.pi)
            radius += rng.normal(0, 0.22) * np.cos(harmonic * ANGLES + phase)
        colour = _lch_to_bgr(rng.uniform(30, 85), rng.uniform(0, 44), rng.uniform(0, 360))
        outline = _polar(rng, size, 0.4 * rng.uniform(smallest, largest), np.maximum(radius, 0.2))
        cv2.fillPoly(image, [outline], colour.tolist(), cv2.LINE_AA, FIXED_POINT_BITS)
    for _ in range(rng.poisson(3.5 * share)):
        # Outlines of shapes, whole or in part, in the objects' own colours.
        radius = shape_outline(SHAPES[rng.integers(len(SHAPES))], config.confusability)
        outline = _polar(rng, size, rng.uniform(smallest, largest) * np.sqrt(np.pi) / 2, radius)
        closed = bool(rng.random() < 0.5)
        if not closed:
            outline = outline[: rng.integers(NUM_ANGLES // 4, NUM_ANGLES * 3 // 4)]
        colour = _lch_to_bgr(rng.uniform(45, 75), rng.uniform(30, 55), rng.uniform(0, 360))
        _draw_line(image, outline, closed, colour, int(rng.integers(1, 3)))
    for _ in range(rng.poisson(5 * share)):
        start = rng.uniform(0, size, 2)
        steps = rng.normal(0, 0.09 * size, (int(rng.integers(2, 6)), 2))
        stroke = to_fixed_point(start + np.cumsum(steps, axis=0))
        colour = _lch_to_bgr(rng.uniform(15, 90), rng.uniform(0, 55), rng.uniform(0, 360))
        _draw_line(image, stroke, False, colour, int(rng.integers(1, 4)))

    number = 1 + rng.poisson(40 * share)
    places = rng.integers(0, size, (number, 2)).tolist()
    colours = _lch_to_bgr(
        rng.uniform(20, 90, number), rng.uniform(0, 50, number), rng.uniform(0, 360, number)
    ).tolist()
    radii = rng.integers(0, 3, number).tolist()
    for place, colour, radius in zip(places, colours, radii, strict=True):
        cv2.circle(image, place, radius, colour, cv2.FILLED)


def _draw_line(image, points: np.ndarray, closed: bool, colour: np.ndarray, width: int) -> None:
    cv2.polylines(image, [points], closed, colour.tolist(), width, cv2.LINE_AA, FIXED_POINT_BITS)


def _polar(rng: np.random.Generator, size: int, scale: float, radius: np.ndarray) -> np.ndarray:
    """A turned outline at a random place, in cv2's fixed-point numbers."""
    angles = ANGLES + rng.uniform(0, 2 * np.pi)
    points = scale * np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return to_fixed_point(rng.uniform(0, size, 2) + points)


def _paint_object(
    image: np.ndarray, category: Category, item: PlacedObject, config: MiniLVISConfig, rng
) -> None:
    """Blend one object into the image, in place; its edge is smooth over a pixel."""
    crop = image[item.pixels]
    alpha = cv2.resize(item.mask * 255, crop.shape[1::-1], interpolation=cv2.INTER_AREA)
    alpha = alpha.astype(np.float32)[..., None] / 255

    lightness = rng.uniform(50, 76)
    chroma = rng.uniform(46, 64)
    hue = hue_angle(category.hue, config.confusability) + rng.normal(0, 3.5)
    colour = _lch_to_bgr(lightness, chroma, hue)

    # Coordinates u and v of the texture, in diameters of the object.
    centre = item.outline.mean(axis=0)
    # The texture turns with the object: the first point of an outline lies at the angle 0.
    axis = item.outline[0] - centre
    axis = axis / np.linalg.norm(axis)
    diameter = 2 * float(np.sqrt(np.mean(np.sum((item.outline - centre) ** 2, axis=1))))
    y, x = (grid[item.pixels] for grid in _grid(config.image_size))
    x, y = (x - np.float32(centre[0])) / diameter, (y - np.float32(centre[1])) / diameter
    u = x * np.float32(axis[0]) + y * np.float32(axis[1])
    v = y * np.float32(axis[0]) - x * np.float32(axis[1])

    # A few periods per object, so that a texture is legible at any size.
    wave = np.float32(2 * np.pi * rng.uniform(2.7, 3.5))
    phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    field = _TEXTURE_FIELDS[category.texture](wave * u + phase[0], wave * v + phase[1])
    light = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.3)
    lit = 1 + np.float32(slope * np.cos(light)) * x + np.float32(slope * np.sin(light)) * y
    shade = lit * (1 + np.float32(texture_contrast(config.confusability)) * field)
    crop += alpha * (colour * shade[..., None] - crop)


_TEXTURE_FIELDS = {
    "plain": lambda u, v: np.zeros_like(u),
    "striped": lambda u, v: np.tanh(3 * np.sin(u)),
    "checked": lambda u, v: np.tanh(5 * np.sin(0.7 * u) * np.sin(0.7 * v)),
    "dotted": lambda u, v: np.tanh(4 * (np.cos(u) + np.cos(v) - 0.8)),
    "ringed": lambda u, v: np.tanh(3 * np.sin(np.hypot(u, v))),
}


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scratches in front of everything, uneven light, white balance and noise; returns uint8."""
    size = len(image)
    y, x = _grid(size)
    for _ in range(rng.poisson(0.7)):
        start, end = to_fixed_point(rng.uniform(-0.1 * size, 1.1 * size, (2, 2))).tolist()
        grey = rng.uniform(30, 220)
        cv2.line(image, start, end, (grey, grey, grey), 1, cv2.LINE_8, FIXED_POINT_BITS)
    light = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.25) / size
    gain = 1 + np.float32(slope * np.cos(light)) * (x - size / 2)
    gain += np.float32(slope * np.sin(light)) * (y - size / 2)
    balance = rng.uniform(0.8, 1.12) * np.exp(rng.normal(0, 0.035, 3))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 8))
    image *= cv2.merge([gain, gain, gain])
    image *= balance.astype(np.float32)
    image += noise
    return np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: y and x, float32 of shape (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    return y, x


def _turned_grid(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that changes over about ``1 / cells`` of the image; float32 of shape (S, S)."""
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _lch_to_bgr(lightness, chroma, hue) -> np.ndarray:
    """CIE LCh (lightness 0 to 100, chroma, hue in degrees) to BGR, float32 (..., 3), 0 to 255."""
    # Equal steps of hue look about equally large there, which they do not in HSV.
    angle = np.deg2rad(hue)
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    shape = np.shape(a)
    lab = np.empty((1, *(shape or (1,)), 3), dtype=np.float32)
    lab[..., 0], lab[..., 1], lab[..., 2] = lightness, a, b
    bgr = cv2.cvtColor(lab, cv2.COLOR_Lab2BGR).reshape(*shape, 3)
    return 255 * np.minimum(np.maximum(bgr, 0), 1)
