"""Class-aware sampling: all categories are drawn equally often.

From Shen et al., "Relay Backpropagation for Effective Learning of Deep Convolutional Neural
Networks" (arXiv 1512.05830).

Glossary:
    C': number of categories that occur in the dataset.
    cycle: C' draws that visit each of these categories once, in an order of their own.
"""

from collections.abc import Sized

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS

from mmdet_eql.annotations.instance_labels import instance_labels_of
from mmdet_eql.datasets.samplers.stream import StreamSampler
from mmdet_eql.utils.errors import UserError


@DATA_SAMPLERS.register_module()
class CategoryAwareSampler(StreamSampler):
    """Draws a category, all being equally likely, and then one of its images.

    The cycles go on across the epochs (those of mmdet's ``ClassAwareSampler`` begin anew in each).
    Within an epoch an image of a category comes again, for this category, only after all its other
    images; each such round has an order of its own. Categories that occur in no image, and images
    without annotations, are never drawn.

    Args:
        dataset (Sized): The training dataset, wrapped or not.
        num_samples, seed, infinite: See :class:`StreamSampler`.

    Raises:
        UserError: If ``num_samples`` is not positive, no image is annotated, or the dataset has no
            labels.

    Example:
        >>> train_dataloader = dict(sampler=dict(type="CategoryAwareSampler"))
    """

    def __init__(
        self,
        dataset: Sized,
        num_samples: int | None = None,
        seed: int | None = None,
        infinite: bool = False,
    ) -> None:
        super().__init__(dataset, seed, infinite, num_samples)
        image, label = instance_labels_of(dataset).pairs()
        if len(image) == 0:
            raise UserError(
                "CategoryAwareSampler: no image of the training dataset is annotated; check "
                "'ann_file', 'metainfo.classes' and 'filter_cfg'."
            )
        # The images of each category, one category after another.
        self._images = image[np.argsort(label, kind="stable")]
        counts = np.bincount(label)
        self._counts = counts[counts > 0]
        self._starts = np.cumsum(self._counts) - self._counts
        print_log(
            f"CategoryAwareSampler: {len(self._counts):,} categories; an epoch of "
            f"{self.num_samples:,} draws takes {self.num_samples / len(self._counts):.1f} images "
            "of each",
            logger="current",
        )

    def epoch_indices(self, epoch: int) -> np.ndarray:
        categories = self._categories(epoch * self.num_samples, (epoch + 1) * self.num_samples)
        drawn = np.bincount(categories, minlength=len(self._counts))
        # How often this draw's category came before in the epoch.
        order = np.argsort(categories, kind="stable")
        before = np.empty_like(categories)
        before[order] = np.arange(len(order)) - np.repeat(np.cumsum(drawn) - drawn, drawn)

        # Enough rounds over each category's images; sorting by round and a random fraction
        # shuffles each round by itself.
        rounds = -(-drawn // self._counts)
        lengths = rounds * self._counts
        starts = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        counts = np.repeat(self._counts, lengths)
        images = self._images[np.repeat(self._starts, lengths) + within % counts]
        rounds_before = np.repeat(np.cumsum(rounds) - rounds, lengths) + within // counts
        fraction = np.random.default_rng((self.seed, epoch)).random(len(images))
        images = images[np.argsort(rounds_before + fraction)]
        return images[starts[categories] + before]

    def _categories(self, start: int, stop: int) -> np.ndarray:
        """The categories of the positions from ``start`` up to ``stop``, in [0, C')."""
        num = len(self._counts)
        first, last = start // num, -(-stop // num)
        # Philox can begin anywhere; a step makes four numbers.
        skipped = first * num
        bits = np.random.Philox(key=self.seed).advance(skipped // 4)
        random = np.random.Generator(bits).random(last * num - skipped + skipped % 4)
        cycles = random[skipped % 4 :].reshape(-1, num).argsort(axis=1).ravel()
        return cycles[start - skipped : stop - skipped]
