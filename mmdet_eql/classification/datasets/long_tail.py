"""Cut a balanced set to an exponential profile, with the same images on every machine.

Of M images in C classes, class i = 0, ..., C - 1 keeps n_i = floor(n_max mu^(i / (C - 1))). mu is
1 / imbalance factor, which is n_max over the count of the last class.
"""

import numpy as np

from mmdet_eql.utils.errors import UserError


def exponential_counts(n_max: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """The profile of Cui et al. (arXiv 1901.05555) and Cao et al. (arXiv 1906.07413).

    Args:
        n_max (int): Number of images of the first class, at least 1.
        num_classes (int): C.
        imbalance_factor (float): From 1, which keeps all images, to n_max.

    Returns:
        np.ndarray: n_i, int64 of shape (C,).

    Raises:
        UserError: If the imbalance factor is out of range.

    Example:
        >>> exponential_counts(5000, 10, 100).tolist()
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if not 1 <= imbalance_factor <= n_max:
        raise UserError(
            f"imbalance_factor is {imbalance_factor}; it must lie between 1 (balanced) and the "
            f"{n_max} images of the largest class, so that the last class keeps one."
        )
    # In the order of operations of the published code: another order rounds differently.
    mu = 1 / imbalance_factor
    last = max(num_classes - 1, 1)
    return np.array([int(n_max * mu ** (i / last)) for i in range(num_classes)], dtype=np.int64)


def long_tailed_indices(
    labels: np.ndarray, num_classes: int, imbalance_factor: float, seed: int = 0
) -> np.ndarray:
    """Choose the images of a balanced set that stay.

    The images of each class are shuffled, one class after another, by NumPy's legacy generator,
    whose stream does not change between versions. Seed 0 chooses as the code of Cao et al.

    Args:
        labels (np.ndarray): Labels of all images, int64 of shape (M,), each in [0, C).
        num_classes (int): C.
        imbalance_factor (float): See :func:`exponential_counts`; n_max is M // C.
        seed (int): In [0, 2^32).

    Returns:
        np.ndarray: Indices of the images, int64, one class after another.

    Raises:
        UserError: If the imbalance factor is out of range, or a class has fewer images than n_i.
    """
    counts = exponential_counts(len(labels) // num_classes, num_classes, imbalance_factor)
    random = np.random.RandomState(seed)
    chosen = []
    for label, count in enumerate(counts):
        images = np.flatnonzero(labels == label)
        if len(images) < count:
            raise UserError(
                f"imbalance_factor: class {label} has {len(images)} images, but the long-tailed "
                f"profile asks for {count}; cut a set whose classes have equally many images."
            )
        random.shuffle(images)
        chosen.append(images[:count])
    return np.concatenate(chosen)
