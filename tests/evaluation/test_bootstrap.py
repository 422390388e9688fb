"""Bootstrap by weights of images, beside evaluation of the images that were drawn."""

import numpy as np
import pytest

from mmdet_eql.evaluation import compare_files, read_ground_truth, read_results
from mmdet_eql.evaluation.bootstrap import (
    draw_images,
    intervals,
    resample_metrics,
)
from tests.evaluation.federated_sets import make_federated_set, save


def without_ties(results, seed=0):
    """Copies of an image make equal scores of their own; others would be ordered by chance."""
    scores = np.random.default_rng(seed).permutation(len(results)) / len(results)
    return [{**r, "score": score} for r, score in zip(results, scores.tolist(), strict=True)]


def drawn(data, results, times):
    """The set with as many copies of each image as were drawn."""
    ids = sorted(image["id"] for image in data["images"])
    times = dict(zip(ids, times, strict=True))

    def copies(records, key):
        return [
            {**record, key: 1000 * copy + record[key]}
            for record in records
            for copy in range(times[record[key]])
        ]

    annotations = copies(data["annotations"], "image_id")
    annotations = [{**annotation, "id": i + 1} for i, annotation in enumerate(annotations)]
    data = {**data, "images": copies(data["images"], "id"), "annotations": annotations}
    return data, copies(results, "image_id")


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
@pytest.mark.parametrize(("seed", "iou_type"), [(0, "bbox"), (3, "bbox"), (2, "segm")])
def test_draws_equal_the_evaluation_of_the_drawn_images(seed, iou_type, tmp_path):
    data, results = make_federated_set(seed, masks=iou_type == "segm")
    results = without_ties(results)
    files = save(tmp_path, data, results)
    truth = read_ground_truth(files[0], with_masks=True) if iou_type == "segm" else None
    truth = truth or read_ground_truth(files[0])
    detections = read_results(files[1], truth, iou_type)
    # Few enough for the limit to count in some categories and draws.
    fixed, pooled = 25, 20
    means = resample_metrics(truth, detections, iou_type, 6, fixed, pooled, seed=5)
    assert len(means) == 12
    weight = draw_images(len(truth.image_ids), 6, seed=5)
    assert (weight.sum(axis=0) == len(truth.image_ids)).all()
    for draw in range(6):
        sample = save(tmp_path, *drawn(data, results, weight[:, draw].tolist()))
        (naive,) = compare_files(sample[0], [sample[1]], iou_type, None, fixed, pooled)
        for name, values in means.items():
            expected = naive.metrics[name]
            expected = np.nan if expected == -1 else expected
            assert values[draw] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_memory_is_bounded_by_blocks_of_draws(tmp_path, monkeypatch):
    files = save(tmp_path, *make_federated_set(1))
    truth = read_ground_truth(files[0])
    detections = read_results(files[1], truth, "bbox")
    expected = resample_metrics(truth, detections, "bbox", 7, 20, 20)
    monkeypatch.setattr("mmdet_eql.evaluation.bootstrap._NUMBERS_AT_ONCE", 300)
    in_blocks = resample_metrics(truth, detections, "bbox", 7, 20, 20)
    assert in_blocks.keys() == expected.keys()
    for name, values in in_blocks.items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12)


def test_intervals_are_percentiles_around_the_metric():
    draws = {"AP": np.append(np.arange(1001) / 1000, np.nan), "APr": np.full(4, np.nan)}
    metrics = {"AP": 0.4, "APr": -1}
    assert intervals(draws, metrics) == {"AP": pytest.approx((-0.075, 0.875)), "APr": None}
    assert intervals(draws, metrics, level=0.5)["AP"] == pytest.approx((0.15, 0.65))


def test_what_a_file_gains_over_the_first(tmp_path):
    data, results = make_federated_set(4, num_images=20)
    files = save(tmp_path, data, results)
    (tmp_path / "worse").mkdir()
    worse = save(tmp_path / "worse", data, [{**r, "score": -r["score"]} for r in results])[1]
    first, same, other = compare_files(files[0], [files[1], files[1], worse], bootstrap=200)
    assert first.gain is None
    assert same.gain.wins == same.gain.losses == 0
    assert set(same.gain.intervals.values()) == {(0, 0)}
    assert other.gain.losses > other.gain.wins
    low, high = other.gain.intervals["AP"]
    assert low < other.gain.metrics["AP"] < high
    assert other.gain.metrics["AP"] == other.metrics["AP"] - first.metrics["AP"]
