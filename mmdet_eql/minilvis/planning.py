"""What every image of MiniLVIS shows, and how much of it is labelled.

The whole set is planned before a pixel is drawn, so that image counts follow the wanted curve
exactly; rendering places each planned object.

Glossary:
    C, N: number of categories, and of images of a split.
    present: at least one object of the category is in the picture.
    labelled: present, and annotated. A category that is present and unlabelled is neither in the
        image's annotations nor in its ``neg_category_ids``: nothing is known about it.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mmdet_eql.frequency import frequency_group
from mmdet_eql.minilvis.config import SPLITS, MiniLVISConfig
from mmdet_eql.minilvis.vocabulary import Category, make_vocabulary
from mmdet_eql.utils.errors import UserError

MIN_TRAIN_IMAGES = 2
MIN_VAL_IMAGES = 10
#: No category is present in more than this share of a split's images.
MAX_PRESENCE = 0.8
#: No split has more distinct categories than this share of its objects; the others are repeats.
MAX_DISTINCT = 0.85
#: Share of frequency groups among the negatives of LVIS v0.5 (measured on lvis-api's val sample).
NEGATIVE_MIX = {"r": 0.17, "c": 0.47, "f": 0.36}

# Streams of random numbers that do not depend on one another.
_VOCABULARY_STREAM, _PLAN_STREAM = 0, 1


class ImagePlan(NamedTuple):
    """What one image shows.

    ``category_ids`` and ``annotated`` are those of its objects, from the backmost to the frontmost.
    ``neg_category_ids`` are verified absent; those in ``not_exhaustive_category_ids`` are labelled,
    but have unannotated instances; both are sorted.
    """

    image_id: int
    split: str
    category_ids: tuple[int, ...]
    annotated: tuple[bool, ...]
    neg_category_ids: tuple[int, ...]
    not_exhaustive_category_ids: tuple[int, ...]


class DatasetPlan(NamedTuple):
    """What all images show: C categories and the images of each split, in the order of their ids.

    ``image_count`` and ``instance_count`` are, for each category, the number of training images it
    is labelled in and of its annotated training instances.
    """

    categories: tuple[Category, ...]
    images: dict[str, tuple[ImagePlan, ...]]
    image_count: tuple[int, ...]
    instance_count: tuple[int, ...]


@lru_cache(maxsize=4)
def plan_dataset(config: MiniLVISConfig) -> DatasetPlan:
    """Plan a whole set (cached); a UserError if the options contradict one another."""
    vocabulary_rng = np.random.default_rng([config.seed, _VOCABULARY_STREAM])
    categories = tuple(make_vocabulary(config.num_categories, vocabulary_rng))
    counts = {"train": train_image_counts(config), "val": val_image_counts(config)}

    index_of_rank = np.argsort([category.rank for category in categories])
    by_index = np.empty(config.num_categories, dtype=np.int64)
    by_index[index_of_rank] = counts["train"]
    group = frequency_group(by_index)

    images = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([config.seed, _PLAN_STREAM, number])
        images[split] = _plan_split(config, split, counts[split], index_of_rank, group, rng)

    instance_count = np.zeros(config.num_categories, dtype=np.int64)
    for plan in images["train"]:
        annotated = np.array(plan.category_ids)[list(plan.annotated)]
        np.add.at(instance_count, annotated - 1, 1)
    return DatasetPlan(categories, images, tuple(by_index.tolist()), tuple(instance_count.tolist()))


def train_image_counts(config: MiniLVISConfig) -> np.ndarray:
    """Number of training images that the category of each rank is labelled in.

    Not increasing, int64 of shape (C,); see :class:`MiniLVISConfig`. A UserError if there are too
    few images, or too little room in them.
    """
    num_categories, num_images = config.num_categories, config.num_train_images
    most = _most_labelled(config, num_images)
    if config.image_counts is not None:
        return _given_counts(config, most)
    room = config.categories_per_image * num_images
    if config.categories_per_image > MAX_DISTINCT * config.mean_objects:
        raise UserError(
            f"MiniLVIS: categories_per_image={config.categories_per_image:g} is too many for "
            f"{config.min_objects} to {config.max_objects} objects per image; ask for at most "
            f"{MAX_DISTINCT * config.mean_objects:g}, or for more objects."
        )
    floor_present = int(present_images(MIN_TRAIN_IMAGES, config, num_images))
    if most < MIN_TRAIN_IMAGES or num_categories * floor_present > room:
        presence = num_categories * math.ceil(MIN_TRAIN_IMAGES / config.label_rate)
        enough = max(
            presence / config.categories_per_image,
            MIN_TRAIN_IMAGES / (MAX_PRESENCE * config.label_rate),
        )
        raise UserError(
            f"MiniLVIS: num_train_images={num_images} leaves no room to label each of "
            f"{num_categories} categories in {MIN_TRAIN_IMAGES} images; ask for at least "
            f"{math.ceil(enough)} images, for fewer categories, or for more categories_per_image."
        )
    decay = np.arange(1, num_categories + 1, dtype=np.float64) ** -config.steepness

    def curve(scale: float) -> np.ndarray:
        return np.clip(np.ceil(scale * decay), MIN_TRAIN_IMAGES, most).astype(np.int64)

    # A quarter of the categories at most may be as frequent as can be; more would be no head.
    upper = most * (num_categories / 4) ** config.steepness
    return _fitted(curve, upper, room, config, num_images)


def _given_counts(config: MiniLVISConfig, most: int) -> np.ndarray:
    """Those of the config, at as many quantiles as there are categories."""
    given = np.sort(np.array(config.image_counts, dtype=np.int64))[::-1]
    quantiles = (np.arange(config.num_categories) + 0.5) / config.num_categories
    counts = given[(quantiles * len(given)).astype(np.int64)]
    present = present_images(counts, config, config.num_train_images).sum()
    room = MAX_DISTINCT * config.mean_objects * config.num_train_images
    if counts[0] > most or present > room:
        raise UserError(
            f"MiniLVIS: image_counts up to {counts[0]:,}, {counts.sum():,} in all, have no room in "
            f"num_train_images={config.num_train_images:,}; ask for more images, more objects in "
            "them, or a higher label_rate."
        )
    return counts


def val_image_counts(config: MiniLVISConfig) -> np.ndarray:
    """As :func:`train_image_counts`, of the validation split; each at least :func:`val_floor`.

    The head keeps at most its density of the training split, and gives way where the images have
    no room beside the lifted tail. A UserError if there are too few images.
    """
    num_images = config.num_val_images
    floor = val_floor(config)
    density = train_image_counts(config) / config.num_train_images

    def thinned(share: float) -> np.ndarray:
        return np.maximum(np.floor(share * density * num_images).astype(np.int64), floor)

    room = MAX_DISTINCT * config.mean_objects * num_images
    return _fitted(thinned, 1.0, room, config, num_images)


def val_floor(config: MiniLVISConfig) -> int:
    """Number of validation images that each category is labelled in at least.

    It is 10, or as many as fit: a category is present in at most 80 % of the images, and an image's
    distinct categories are at most 85 % of its mean number of objects. A UserError if none fits.
    """
    num_images = config.num_val_images
    room = MAX_DISTINCT * config.mean_objects * num_images
    most = _most_labelled(config, num_images)
    for floor in range(min(MIN_VAL_IMAGES, most), 0, -1):
        if config.num_categories * present_images(floor, config, num_images) <= room:
            return floor
    raise UserError(
        f"MiniLVIS: num_val_images={num_images} leaves no room to label each of "
        f"{config.num_categories} categories in one image; ask for more validation images."
    )


def _most_labelled(config: MiniLVISConfig, num_images: int) -> int:
    """Number of images that a category can be labelled in at most."""
    return int(MAX_PRESENCE * config.label_rate * num_images)


def present_images(labelled: np.ndarray, config: MiniLVISConfig, num_images: int) -> np.ndarray:
    """Number of images that a category is present in, by the number that it is labelled in."""
    present = np.rint(labelled / config.label_rate).astype(np.int64)
    # Rounding must not make a category labelled without being present.
    return np.clip(present, labelled, max(int(MAX_PRESENCE * num_images), 1))


def _fitted(
    curve: Callable, upper: float, room: float, config: MiniLVISConfig, num_images: int
) -> np.ndarray:
    """The curve at the largest scale at which the present categories still fit into the images."""

    def fits(scale: float) -> bool:
        return present_images(curve(scale), config, num_images).sum() <= room

    low, high = upper if fits(upper) else 0.0, upper
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return curve(low)


def _plan_split(
    config: MiniLVISConfig, split: str, counts: np.ndarray, index_of_rank: np.ndarray, group, rng
) -> tuple[ImagePlan, ...]:
    ids = config.image_ids(split)
    num_objects = rng.integers(config.min_objects, config.max_objects + 1, size=len(ids))
    counts_present = present_images(counts, config, len(ids))
    present = _assign(counts_present, index_of_rank, num_objects, split, rng)
    labelled = np.zeros_like(present)
    for count, index in zip(counts, index_of_rank, strict=True):
        among = np.flatnonzero(present[:, index])
        labelled[rng.choice(among, count, replace=False), index] = True

    # Repeats are uneven, as in photographs: a few apples more often lie beside six of them than
    # everything comes twice.
    multiplicity = present.astype(np.int64)
    for row, number in enumerate(num_objects):
        indices = np.flatnonzero(present[row])
        share = rng.standard_exponential(len(indices)) ** 2
        multiplicity[row, indices] += rng.multinomial(number - len(indices), share / share.sum())

    # Only a category with an instance to leave out can be annotated incompletely.
    pairs = np.flatnonzero(labelled & (multiplicity >= 2))
    wanted = round(config.not_exhaustive_per_image * len(present))
    incomplete = np.zeros_like(present)
    incomplete.flat[rng.choice(pairs, min(wanted, len(pairs)), replace=False)] = True
    negatives = _choose_negatives(config, present, group, rng)

    plans = []
    for row, image_id in enumerate(ids):
        categories, annotated = [], []
        for index in np.flatnonzero(present[row]):
            number = int(multiplicity[row, index])
            shown = number if labelled[row, index] else 0
            if incomplete[row, index]:
                shown = int(rng.integers(1, number))
            categories += [int(index) + 1] * number
            annotated += [True] * shown + [False] * (number - shown)
        order = rng.permutation(len(categories))
        plans.append(
            ImagePlan(
                image_id,
                split,
                category_ids=tuple(categories[i] for i in order),
                annotated=tuple(annotated[i] for i in order),
                neg_category_ids=tuple((negatives[row] + 1).tolist()),
                not_exhaustive_category_ids=tuple((np.flatnonzero(incomplete[row]) + 1).tolist()),
            )
        )
    return tuple(plans)


def _assign(
    counts: np.ndarray, index_of_rank: np.ndarray, num_objects: np.ndarray, split: str, rng
) -> np.ndarray:
    """Choose the images each category is present in: bool of shape (N, C), its column sums exact.

    The most frequent categories choose first, while there is room everywhere. An image with more
    room is likelier to be chosen.
    """
    present = np.zeros((len(num_objects), len(counts)), dtype=bool)
    room = num_objects.copy()
    for count, index in zip(counts, index_of_rank, strict=True):
        free = np.flatnonzero(room > 0)
        if len(free) < count:
            raise UserError(
                f"MiniLVIS: the {split} images are too full to place every category; ask for "
                "more objects per image (min_objects, max_objects) or fewer categories_per_image."
            )
        weight = room[free] / room[free].sum()
        chosen = rng.choice(free, count, replace=False, p=weight)
        present[chosen, index] = True
        room[chosen] -= 1

    # Every image shows something: an image without a category takes one from a fuller image.
    for row in np.flatnonzero(~present.any(axis=1)):
        donors = np.flatnonzero(present.sum(axis=1) >= 2)
        if not len(donors):
            raise UserError(
                f"MiniLVIS: {len(present)} {split} images are too many for the categories to fill; "
                "ask for fewer images or more categories_per_image."
            )
        donor = rng.choice(donors)
        index = rng.choice(np.flatnonzero(present[donor]))
        present[donor, index], present[row, index] = False, True
    return present


def _choose_negatives(
    config: MiniLVISConfig, present: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Choose verified-absent categories of each image, as sorted indices."""
    num_images, num_categories = present.shape
    number = rng.poisson(min(config.negatives_per_image, num_categories / 3), num_images)
    number = np.minimum(number, num_categories // 3)
    chosen = []
    for row in range(num_images):
        absent = np.flatnonzero(~present[row])
        weight = np.zeros(len(absent))
        for name, share in NEGATIVE_MIX.items():
            members = group[absent] == name
            weight[members] = share / max(members.sum(), 1)
        # A very small vocabulary may be shown in whole.
        size = min(int(number[row]), len(absent))
        p = weight / weight.sum() if size else None
        chosen.append(np.sort(rng.choice(absent, size, replace=False, p=p)))
    return chosen
