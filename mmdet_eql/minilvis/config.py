"""What can be chosen about MiniLVIS."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from mmdet_eql.minilvis.vocabulary import MAX_CATEGORIES
from mmdet_eql.utils.errors import UserError

SPLITS = ("train", "val")

#: Equivalent diameter (of a disc of the same area) of the smallest and the largest objects, as a
#: share of the image's side: 14 to 60 px at 160 px.
OBJECT_DIAMETER = (0.0875, 0.375)
#: Below this, shapes cannot be distinguished, whatever the image's size, in px.
MIN_OBJECT_DIAMETER = 12.0


def _option(default: float, low: float, high: float, text: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "help": text})


@dataclass(frozen=True)
class MiniLVISConfig:
    """Options of MiniLVIS; the defaults make the set that this project's configs train on.

    Each option has its range and its meaning where it is defined. The number of training images in
    which the category of rank r = 1, 2, ... is labelled is ``ceil(c * r ** -steepness)``, but at
    least 2, and at most what it takes to be present in 80 % of the images. The scale c follows from
    ``categories_per_image``. With ``image_counts`` these numbers are given instead.

    Raises:
        UserError: If an option is of the wrong type or out of range.
    """

    #: Up to 200 differ in shape and hue (20 shapes, 10 hues); above that, also in texture alone.
    num_categories: int = _option(200, 6, MAX_CATEGORIES, "number of categories")
    num_train_images: int = _option(5000, 1, 10**6, "number of training images")
    #: Val keeps the head's density where there is room, and labels each category in at least 10
    #: images, or in as many as fit (see :func:`planning.val_floor`).
    num_val_images: int = _option(1000, 1, 10**6, "number of validation images")
    #: Objects are 14 to 60 px across at 160 px, and scale with the image.
    image_size: int = _option(160, 64, 1024, "side of the square images in px")
    min_objects: int = _option(7, 1, 100, "least number of objects per image")
    max_objects: int = _option(12, 1, 100, "greatest number of objects per image")
    #: Of the default's 5.25, 2.1 are labelled; 8 at a label rate of 0.44 make it the 3.5 of LVIS
    #: v0.5, with fewer rare categories. With less than about 20 categories give a smaller number,
    #: so that the head stays a head.
    categories_per_image: float = _option(
        5.25, 0.1, 100, "mean number of categories present in a training image, labelled or not"
    )
    steepness: float = _option(
        1.75, 0, 10, "image counts fall as rank ** -steepness over the categories"
    )
    label_rate: float = _option(
        0.4, 0.01, 1, "probability that a category present in an image is labelled there"
    )
    #: 0 keeps hues evenly spaced, shapes apart and textures strong; at 1 neighbours are hard to
    #: tell apart.
    confusability: float = _option(
        0.5, 0, 1, "closeness of look-alike categories, from 0 (apart) to 1 (nearly the same)"
    )
    #: At most a third of the vocabulary is verified absent from any one image.
    negatives_per_image: float = _option(
        9.4, 0, 1000, "mean number of verified-absent categories per image"
    )
    #: Labelled categories of which some instances are left unannotated. Only those with two or more
    #: instances in the image qualify, so that a high number may not be reached.
    not_exhaustive_per_image: float = _option(
        0.16, 0, 100, "mean number of not exhaustively annotated categories per image"
    )
    #: The same options give the same bytes (with the same versions of NumPy and OpenCV), whatever
    #: the number of workers.
    seed: int = _option(0, 0, 2**63 - 1, "seed of everything random")
    #: In any order. C categories have the counts at C quantiles, which are these if they are C.
    image_counts: tuple[int, ...] | None = field(
        default=None,
        metadata={
            "help": "training images of each category, such as LVIS's, in place of steepness and "
            "categories_per_image"
        },
    )

    def __post_init__(self) -> None:
        if self.image_counts is not None:
            counts = tuple(self.image_counts)
            object.__setattr__(self, "image_counts", counts)
            if not counts or not all(type(count) is int and count > 0 for count in counts):
                raise UserError("MiniLVIS: image_counts must be whole numbers of at least 1.")
        for option in dataclasses.fields(self):
            if option.default is None:
                continue
            value = getattr(self, option.name)
            low, high = option.metadata["low"], option.metadata["high"]
            whole = isinstance(option.default, int)
            # bool is an int in Python, but no number to a reader.
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "whole number" if whole else "number"
                raise UserError(f"MiniLVIS: {option.name}={value!r} must be a {kind}.")
            if not (math.isfinite(value) and low <= value <= high):
                raise UserError(
                    f"MiniLVIS: {option.name}={value} must be between {low} and {high}."
                )
            if not whole:
                object.__setattr__(self, option.name, float(value))
        if self.max_objects < self.min_objects:
            raise UserError(
                f"MiniLVIS: max_objects={self.max_objects} must be at least "
                f"min_objects={self.min_objects}."
            )
        # Half full at the smallest size still leaves room for the shrinking that placement does.
        smallest = math.pi / 4 * self.object_diameter[0] ** 2
        most = int(0.5 * self.image_size**2 / smallest)
        if self.max_objects > most:
            raise UserError(
                f"MiniLVIS: max_objects={self.max_objects} do not fit into image_size="
                f"{self.image_size}; ask for at most {most} objects, or for larger images."
            )

    @property
    def object_diameter(self) -> tuple[float, float]:
        """Smallest and largest equivalent diameter of objects in px."""
        low, high = (share * self.image_size for share in OBJECT_DIAMETER)
        return max(low, MIN_OBJECT_DIAMETER), high

    @property
    def mean_objects(self) -> float:
        """Mean number of objects per image, annotated or not."""
        return (self.min_objects + self.max_objects) / 2

    def image_ids(self, split: str) -> range:
        """Image ids of a split; they run on from train to val, as an LVIS id names one image."""
        if split == "train":
            return range(1, 1 + self.num_train_images)
        return range(1 + self.num_train_images, 1 + self.num_train_images + self.num_val_images)
