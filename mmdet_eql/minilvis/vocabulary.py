"""The categories of MiniLVIS: shapes, hues, textures, and their ranks in the long tail.

Shapes come in families of two look-alikes, and so do hues. Two neighbouring shapes in two
neighbouring hues, all with one texture, form a *block*: four categories that are easily taken for
one another. As many of the most frequent categories as there are blocks are spread over the blocks,
one in each, so that every category of the tail has a far more frequent look-alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

#: Angles at which an outline's radius is given.
NUM_ANGLES = 180
ANGLES = np.linspace(0, 2 * np.pi, NUM_ANGLES, endpoint=False)


def _unit_area(radius: np.ndarray) -> np.ndarray:
    # Area of a polar curve: the integral of r^2 / 2.
    return radius / np.sqrt(np.mean(radius**2) * np.pi)


def _polygon(vertices: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
    """Radius of a polygon around the origin at each angle: where the ray leaves it."""
    start = np.asarray(vertices, dtype=np.float64)
    edge = np.roll(start, -1, axis=0) - start
    ray = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    # Solve start + t * edge = r * ray for every pair of an angle and an edge.
    determinant = ray[:, :1] * edge[:, 1] - ray[:, 1:] * edge[:, 0]
    determinant[np.abs(determinant) < 1e-12] = np.inf
    r = (start[:, 0] * edge[:, 1] - start[:, 1] * edge[:, 0]) / determinant
    t = (start[:, 0] * ray[:, 1:] - start[:, 1] * ray[:, :1]) / determinant
    hit = (t > -1e-9) & (t < 1 + 1e-9) & (r > 0) & np.isfinite(determinant)
    return np.where(hit, r, 0).max(axis=1)


def _regular(corners: int, inner: float | None = None) -> np.ndarray:
    """A regular polygon, or a star whose inner corners lie at the radius ``inner``."""
    radii = np.tile([1.0] if inner is None else [1.0, inner], corners)
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii) - np.pi / 2
    return _polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def _rectangle(x: float, y: float, below: float) -> np.ndarray:
    """A rectangle from -x to x and from -y down to ``below``; stars unite by ``max``."""
    return _polygon([(-x, -y), (x, -y), (x, below), (-x, below)])


def _lobes(number: int, depth: float) -> np.ndarray:
    return 1 + depth * np.cos(number * (ANGLES + np.pi / 2))


def _ellipse() -> np.ndarray:
    return 1 / np.hypot(np.cos(ANGLES) / 1.9, np.sin(ANGLES))


def _drop() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return _polygon(np.stack([0.75 * np.sin(t) * np.sin(t / 2) ** 1.3, 0.15 + np.cos(t)], axis=1))


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _polygon(np.stack([x, 2 - y], axis=1))


def _half_moon() -> np.ndarray:
    t = np.linspace(0, np.pi, 60)
    return _polygon(np.stack([np.cos(t), np.sin(t) - 0.42], axis=1))


_OUTLINES = {
    "disc": lambda: np.ones(NUM_ANGLES),
    "blossom": lambda: _lobes(5, 0.28),
    "ellipse": _ellipse,
    "peanut": lambda: _ellipse() * (1 - 0.3 * np.sin(ANGLES) ** 4 + 0.2 * np.cos(2 * ANGLES)),
    "square": lambda: _regular(4),
    "caltrop": lambda: _regular(4, inner=0.36),
    "triangle": lambda: _regular(3),
    "trefoil": lambda: _lobes(3, 0.38),
    "pentagon": lambda: _regular(5),
    "star": lambda: _regular(5, inner=0.42),
    "hexagon": lambda: _regular(6),
    "hexagram": lambda: _regular(6, inner=0.55),
    "cross": lambda: np.maximum(_rectangle(1, 0.3, 0.3), _rectangle(0.3, 1, 1)),
    "clover": lambda: 0.35 + np.abs(np.cos(2 * ANGLES)) ** 0.6,
    "drop": _drop,
    "heart": _heart,
    "half-moon": _half_moon,
    "trapezoid": lambda: _polygon([(-1, -0.5), (1, -0.5), (0.45, 0.6), (-0.45, 0.6)]),
    "arrow": lambda: _polygon(
        [(0, -1), (0.9, 0.05), (0.32, 0.05), (0.32, 1), (-0.32, 1), (-0.32, 0.05), (-0.9, 0.05)]
    ),
    "tee": lambda: np.maximum(_rectangle(0.9, 0.3, 0.3), _rectangle(0.3, 0.3, 1.1)),
}


def _pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(names[::2], names[1::2], strict=True))


SHAPES = tuple(_OUTLINES)
#: Families of two shapes; an outline is one radius per angle, so that look-alikes interpolate.
SHAPE_FAMILIES = _pairs(SHAPES)
_HUES = ["rose", "orange", "gold", "lime", "green", "teal", "azure", "blue", "violet", "magenta"]
#: Families of two neighbouring hues.
HUE_FAMILIES = _pairs(_HUES)
TEXTURES = ("plain", "striped", "checked", "dotted", "ringed")

_NUM_BLOCKS = len(SHAPE_FAMILIES) * len(HUE_FAMILIES)
MAX_CATEGORIES = 4 * _NUM_BLOCKS * len(TEXTURES)

# Angle (degrees, CIE LCh) of the middle of each hue family. Yellow to green holds fewer hues that
# the eye and a camera tell apart than the rest of the circle, so the spacing is not quite even.
_HUE_CENTRES = (38.0, 105.0, 165.0, 255.0, 325.0)


@dataclass(frozen=True)
class Category:
    """A category: a combination of shape, hue and texture, at a rank of the long tail.

    Ids count from 1 in the names' alphabetical order, ranks from 1, the most frequent.
    """

    id: int
    shape: str
    hue: str
    texture: str
    rank: int

    @property
    def name(self) -> str:
        """The name, such as ``"teal striped hexagon"``."""
        return f"{self.hue} {self.texture} {self.shape}"


def make_vocabulary(num_categories: int, rng: np.random.Generator) -> list[Category]:
    """Choose C categories, in the order of their ids, and shuffle the ranks over them."""
    # Layers share shapes and hues, and differ in texture; a layer is used up before the next one.
    cells = []
    for layer in range(len(TEXTURES)):
        for block in rng.permutation(_NUM_BLOCKS):
            shape_family, hue_family = divmod(int(block), len(HUE_FAMILIES))
            texture = TEXTURES[(shape_family + hue_family + layer) % len(TEXTURES)]
            in_block = [
                (shape, hue, texture)
                for shape in SHAPE_FAMILIES[shape_family]
                for hue in HUE_FAMILIES[hue_family]
            ]
            cells.extend(in_block[i] for i in rng.permutation(4))
    cells = cells[:num_categories]

    heads = rng.permutation(np.arange(0, num_categories, 4))
    others = rng.permutation(np.setdiff1d(np.arange(num_categories), heads))
    rank_of = {int(cell): rank for rank, cell in enumerate([*heads, *others], start=1)}

    order = sorted(range(num_categories), key=lambda i: (cells[i][1], cells[i][2], cells[i][0]))
    return [
        Category(identifier, *cells[i], rank=rank_of[i])
        for identifier, i in enumerate(order, start=1)
    ]


def hue_angle(hue: str, confusability: float) -> float:
    """Angle of a hue in CIE LCh, in degrees; see :class:`MiniLVISConfig` for confusability."""
    spacing = _between(36.0, 6.0, confusability)
    family, member = divmod(_HUES.index(hue), 2)
    return _HUE_CENTRES[family] + (member - 0.5) * spacing


@lru_cache(maxsize=100)
def shape_outline(shape: str, confusability: float) -> np.ndarray:
    """Radius of a shape of unit area at each of :data:`ANGLES`, float64 of shape (NUM_ANGLES,)."""
    family, member = divmod(SHAPES.index(shape), 2)
    radius = _unit_area(_OUTLINES[shape]())
    if member:
        # The more confusable, the closer it comes to the first shape of its family.
        partner = _unit_area(_OUTLINES[SHAPE_FAMILIES[family][0]]())
        own = _between(1.0, 0.3, confusability)
        radius = _unit_area(own * radius + (1 - own) * partner)
    return radius


def texture_contrast(confusability: float) -> float:
    """Relative amplitude of brightness in a textured object, in (0, 1)."""
    return _between(0.36, 0.12, confusability)


def _between(apart: float, alike: float, confusability: float) -> float:
    return apart + (alike - apart) * confusability
