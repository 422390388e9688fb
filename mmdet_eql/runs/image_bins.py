"""AP of categories by their number of training images, in bins of one's own.

LVIS's groups, rare, common and frequent, need not be what an experiment divides: EQL with another
lambda protects some of the rare categories, or some of the common ones as well.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from mmdet_eql.runs.run_record import RunRecord
from mmdet_eql.utils.errors import UserError

#: Appended to the name of a kind of figures, such as "bbox".
BY_IMAGES = " by images"


def parse_bounds(text: str) -> list[int]:
    """Read the upper ends of bins from the command line.

    Args:
        text (str): Such as ``"4,10,100"``.

    Returns:
        list[int]: The numbers.

    Raises:
        UserError: If they are not whole, at least 1, and ascending.
    """
    try:
        bounds = [int(word) for word in text.split(",")]
    except ValueError:
        bounds = []
    if not bounds or bounds[0] < 1 or sorted(set(bounds)) != bounds:
        raise UserError(
            f"--image-bins is {text!r}; give ascending numbers of training images, as in 4,10,100."
        )
    return bounds


def bin_names(bounds: Sequence[int]) -> list[str]:
    """What the bins are called.

    Args:
        bounds (Sequence[int]): Upper ends of all bins but the last, which has none.

    Returns:
        list[str]: One name more than bounds.

    Example:
        >>> bin_names([4, 10, 11])
        ['≤ 4', '5-10', '11', '> 11']
    """
    between = [
        str(high) if high == low + 1 else f"{low + 1}-{high}"
        for low, high in itertools.pairwise(bounds)
    ]
    return [f"≤ {bounds[0]}", *between, f"> {bounds[-1]}"]


def with_image_bins(record: RunRecord, bounds: Sequence[int]) -> RunRecord:
    """Add the mean figure of the categories of each bin.

    Args:
        record (RunRecord): A run with figures of categories.
        bounds (Sequence[int]): Upper ends of all bins but the last, in training images.

    Returns:
        RunRecord: The same with ``"bbox by images"`` and the like in ``figures``; NaN for a bin
        without a category that has ground truth.

    Raises:
        UserError: If the run has no figures of categories, or their images were not counted.
    """
    if not record.category_figures or not record.image_count:
        raise UserError(
            f"{record.name}: holds no figures of categories with their training images; validate "
            "with val_evaluator.classwise=True, or leave --image-bins out."
        )
    counts = np.array(list(record.image_count.values()))
    position = np.searchsorted(bounds, counts)
    added = {}
    for kind, of_category in record.category_figures.items():
        # NaN stands where there is no ground truth.
        values = np.array(
            [of_category.get(name, math.nan) for name in record.image_count], dtype=np.float64
        )
        known = values >= 0
        added[kind + BY_IMAGES] = {
            name: float(values[known & (position == index)].mean())
            if (known & (position == index)).any()
            else math.nan
            for index, name in enumerate(bin_names(bounds))
        }
    return dataclasses.replace(record, figures={**record.figures, **added})
