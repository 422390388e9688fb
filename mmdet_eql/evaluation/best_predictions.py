"""Keeping, while a model is tested, only the predictions that can count for Fixed AP.

These are the best N of each category over the images so far, and the best P of each image, which
count for AP: 300, or fewer if the model gives fewer. Once a category has N, the lowest score of
them is a threshold for what follows, which a model can leave out before it computes a mask.

Glossary:
    C: labels of the model.
    N: predictions of each category that count.
"""

import numpy as np

from mmdet_eql.evaluation.columns import rank_in_groups
from mmdet_eql.evaluation.image_predictions import ImagePredictions

#: Lowest score that counts, as in the authors' code.
MIN_SCORE = 1e-7
#: Predictions are looked through when they have grown by so much, and by so many.
_GROWTH, _LEAST = 1.25, 100_000


class BestPredictions:
    """The best predictions of each category and each image, on one process.

    At most 1.25 (C N + P I) predictions are held, or 100,000 more than C N + P I if that is more,
    besides those of the images that were predicted at once; I are the images of the process.

    What is left out of the predictions of one process cannot count among those of all, so that the
    best of all are among what the processes hold.

    Args:
        number (int): Predictions of each category that count, N.
        per_image (int): Predictions of each image that count, P.
        num_classes (int): C.

    Attributes:
        thresholds (np.ndarray): Score of each category above which a prediction of an image to come
            can count, float32 of shape (C,).
    """

    def __init__(self, number: int, per_image: int, num_classes: int) -> None:
        self.number = number
        self.per_image = per_image
        self.thresholds = np.full(num_classes, MIN_SCORE, dtype=np.float32)
        self._num_images = self._size = self._size_before = 0

    def of_image(self, result: ImagePredictions) -> ImagePredictions:
        """Return the best P predictions of an image, the first ones of equal scores."""
        rank = rank_in_groups(np.zeros(len(result.scores), dtype=np.int64), result.scores)
        return result.take(rank < self.per_image)

    def make_room(self, results: list[ImagePredictions]) -> None:
        """Drop what cannot count from the predictions so far, in place, if they have grown much.

        It is called before predictions are added to ``results``, so that an image that a process
        predicts a second time at its end, to have as many as others, displaces nothing.
        """
        self._size += sum(len(result.labels) for result in results[self._num_images :])
        self._num_images = len(results)
        if self._size <= max(_GROWTH * self._size_before, self._size_before + _LEAST):
            return
        sizes = [len(result.labels) for result in results]
        labels = np.concatenate([result.labels for result in results])
        scores = np.concatenate([result.scores for result in results])
        rank = rank_in_groups(labels, scores)
        full = rank == self.number - 1
        self.thresholds[labels[full]] = scores[full].clip(min=self.thresholds[labels[full]])
        kept = rank < self.number
        image = np.repeat(np.arange(len(results)), sizes)
        kept |= rank_in_groups(image, scores) < self.per_image
        ends = np.cumsum(sizes)[:-1]
        results[:] = map(ImagePredictions.take, results, np.split(kept, ends))
        self._size = self._size_before = int(kept.sum())
