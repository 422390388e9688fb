"""How often the 95 % intervals of AP by bootstrap cover the true value, in a simulation.

    python -m tests.evaluation.bootstrap_coverage

Validation sets are drawn from one population: each category is in an image by its own chance, and
scores of right and wrong detections overlap. The true value is the mean of the metric over many
sets of that size. Prints, for each kind of interval, how many of the sets' intervals cover it.
"""

import numpy as np

from mmdet_eql.evaluation.bootstrap import (
    average_precision,
    draw_images,
    frequency_means,
    right_ranks,
)

NUM_IMAGES, NUM_SETS, NUM_TRUTH, NUM_DRAWS = 500, 300, 3000, 300
#: Chance of an image to hold a category of a group, and number of such categories.
GROUPS = {"r": (0.006, 60), "c": (0.04, 60), "f": (0.2, 40)}
CHANCE = np.repeat([chance for chance, _ in GROUPS.values()], [n for _, n in GROUPS.values()])
FREQUENCIES = np.repeat(list(GROUPS), [number for _, number in GROUPS.values()])
#: Of each category: share of objects found, and how far right scores lie above wrong ones.
FOUND = np.random.default_rng(1).uniform(0.3, 0.95, len(CHANCE))
ABOVE = np.random.default_rng(2).uniform(0, 2.5, len(CHANCE))


def draw_set(rng: np.random.Generator) -> list[tuple[np.ndarray, ...]]:
    """Of each category: images of its objects, and images and rightness of detections by score."""
    categories = []
    for chance, found, above in zip(CHANCE, FOUND, ABOVE, strict=True):
        objects = np.flatnonzero(rng.random(NUM_IMAGES) < chance)
        objects = np.repeat(objects, 1 + rng.poisson(0.7, len(objects)))
        right = objects[rng.random(len(objects)) < found]
        # Images where the category is present, or verified absent, have wrong detections.
        wrong = np.append(objects, rng.integers(NUM_IMAGES, size=rng.poisson(NUM_IMAGES * 0.02)))
        image = np.append(right, wrong)
        is_right = np.arange(len(image)) < len(right)
        order = np.argsort(-(rng.normal(size=len(image)) + above * is_right))
        categories.append((objects, image[order], is_right[None, order]))
    return categories


def category_ap(categories: list[tuple[np.ndarray, ...]], weight: np.ndarray) -> np.ndarray:
    """AP of each category under weights of the images, shape (draws, categories)."""
    return np.stack(
        [
            average_precision(
                right_ranks(right, np.zeros_like(right)), weight[image], weight[objects].sum(0)
            )
            for objects, image, right in categories
        ],
        axis=1,
    )


def main() -> None:
    rng = np.random.default_rng(0)
    once = np.ones((NUM_IMAGES, 1), dtype=np.int32)
    truth = [category_ap(draw_set(rng), once)[0] for _ in range(NUM_TRUTH)]
    truth = {k: v.mean() for k, v in frequency_means(np.array(truth), FREQUENCIES).items()}
    covered = {name: {"percentile": 0, "basic": 0, "centred": 0} for name in truth}
    bias = dict.fromkeys(truth, 0.0)
    for index in range(NUM_SETS):
        categories = draw_set(rng)
        value = frequency_means(category_ap(categories, once), FREQUENCIES)
        weight = draw_images(NUM_IMAGES, NUM_DRAWS, seed=index)
        draws = frequency_means(category_ap(categories, weight), FREQUENCIES)
        for name, of_draws in draws.items():
            low, high = np.percentile(of_draws, [2.5, 97.5])
            shift = value[name][0] - of_draws.mean()
            bias[name] -= shift / NUM_SETS
            ends = {
                "percentile": (low, high),
                "basic": (2 * value[name][0] - high, 2 * value[name][0] - low),
                "centred": (low + shift, high + shift),
            }
            for kind, (start, end) in ends.items():
                covered[name][kind] += start <= truth[name] <= end
    for name, counts in covered.items():
        shares = ", ".join(f"{kind} {n / NUM_SETS:.1%}" for kind, n in counts.items())
        print(f"{name}: true value {truth[name]:.4f}, draws {bias[name]:+.4f}; covered: {shares}")


if __name__ == "__main__":
    main()
