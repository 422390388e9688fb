"""What can count for Fixed AP, kept while images come in, beside the best of everything."""

import numpy as np
import pytest

from mmdet_eql.evaluation import best_predictions
from mmdet_eql.evaluation.best_predictions import BestPredictions
from mmdet_eql.evaluation.image_predictions import ImagePredictions

NUM_CLASSES, NUMBER, PER_IMAGE = 5, 12, 6


def make_images(seed, first_id=0, num_images=40):
    """Predictions of images, by falling score, with many equal scores."""
    rng = np.random.default_rng(seed)
    images = []
    for image_id in range(first_id, first_id + num_images):
        number = int(rng.integers(0, 30))
        scores = -np.sort(-rng.integers(1, 25, number) / np.float32(25)).astype(np.float32)
        pred = dict(bboxes=rng.random((number, 4)), scores=scores)
        # The last class is rare.
        pred["labels"] = rng.choice(NUM_CLASSES, number, p=[0.5, 0.2, 0.2, 0.095, 0.005])
        images.append(ImagePredictions.from_arrays(image_id, pred))
    return images


def best_rows(images):
    """Image, class, score and box of what counts, by sorting everything."""
    rows = [
        (label, -score, at, order, tuple(box))
        for at, image in enumerate(images)
        for order, (label, score, box) in enumerate(
            zip(image.labels.tolist(), image.scores.tolist(), image.boxes.tolist(), strict=True)
        )
    ]
    of_category = [
        row
        for label in range(NUM_CLASSES)
        for row in sorted(r for r in rows if r[0] == label)[:NUMBER]
    ]
    of_image = [
        row
        for at in range(len(images))
        for row in sorted((r for r in rows if r[2] == at), key=lambda r: (r[1], r[3]))[:PER_IMAGE]
    ]
    strip = [{(*row[:2], row[2], row[4]) for row in part} for part in (of_category, of_image)]
    return strip


def predict(best, results, image):
    """As a model and the metric do: the best of the image, and what is above the thresholds."""
    best.make_room(results)
    above = image.scores > best.thresholds[image.labels]
    above[:PER_IMAGE] = True
    results.append(image.take(above))
    return above


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_counts_is_lost_on_any_number_of_ranks(seed, monkeypatch):
    monkeypatch.setattr(best_predictions, "_LEAST", 10)
    images = make_images(seed)
    for world_size in (1, 2, 3):
        ranks = [(BestPredictions(NUMBER, PER_IMAGE, NUM_CLASSES), []) for _ in range(world_size)]
        passed = [predict(*ranks[at % world_size], image) for at, image in enumerate(images)]
        # A rank with an image less predicts the first one again.
        for best, results in ranks[len(images) % world_size :] if world_size > 1 else ():
            predict(best, results, images[0])
        merged = [ranks[at % world_size][1][at // world_size] for at in range(len(images))]
        assert best_rows(merged) == best_rows(images)
        assert np.concatenate(passed).mean() < 0.9
        for best, results in ranks:
            held = sum(len(result.labels) for result in results[:-1])
            # Of a full category 10 more, and the predictions of an image.
            assert held <= NUMBER * NUM_CLASSES + PER_IMAGE * len(results) + 10 + 30
            assert (best.thresholds[:3] > 0.1).all()
            assert best.thresholds[4] == pytest.approx(1e-7)


def test_a_small_set_is_left_alone():
    best, results = BestPredictions(NUMBER, PER_IMAGE, NUM_CLASSES), make_images(0)
    before = list(results)
    best.make_room(results)
    assert all(one is other for one, other in zip(results, before, strict=True))
    assert best.thresholds.tolist() == [pytest.approx(1e-7)] * NUM_CLASSES
