"""Top-k and group accuracy, against counting by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.classification.long_tail_accuracy import LongTailAccuracy, shot_groups
from mmdet_eql.utils.errors import UserError

NAMES = tuple("abcdef")


def evaluate(scores, labels, counts, **kwargs) -> dict:
    metric = LongTailAccuracy(**kwargs)
    metric.dataset_meta = dict(classes=NAMES)
    if counts is not None:
        metric.set_class_counts(np.array(counts))
    for start in range(0, len(labels), 4):
        part = slice(start, start + 4)
        samples = [
            dict(scores=torch.as_tensor(row), gt_label=int(label))
            for row, label in zip(scores[part], labels[part], strict=True)
        ]
        metric.process({}, samples)
    return metric.evaluate(len(labels))


def test_groups_have_the_published_limits():
    groups = shot_groups(np.array([101, 100, 20, 19, 0]))
    assert groups["many"].tolist() == [True, False, False, False, False]
    assert groups["medium"].tolist() == [False, True, True, False, False]
    assert groups["few"].tolist() == [False, False, False, True, True]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(1, 30))
def test_metrics_equal_counting(seed, number):
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((number, 6)), rng.integers(0, 6, number)
    counts = np.array([500, 101, 100, 20, 19, 1])
    metrics = evaluate(scores, labels, counts, topk=(1, 3), classwise=True)
    order = np.argsort(-scores, axis=1)
    hit = [label in row[:3] for row, label in zip(order, labels, strict=True)]
    assert metrics["accuracy/top3"] == pytest.approx(100 * np.mean(hit))
    first = order[:, 0] == labels
    assert metrics["accuracy/top1"] == pytest.approx(100 * first.mean())
    for name, members in (("many", [0, 1]), ("medium", [2, 3]), ("few", [4, 5])):
        means = [first[labels == k].mean() for k in members if (labels == k).any()]
        assert (f"accuracy/{name}" in metrics) == bool(means)
        if means:
            assert metrics[f"accuracy/{name}"] == pytest.approx(100 * np.mean(means))
    for k in set(labels.tolist()):
        expected = pytest.approx(100 * first[labels == k].mean())
        assert metrics[f"accuracy/{NAMES[k]}_accuracy"] == expected


def test_ties_and_nan_count_against_the_label():
    scores = np.zeros((3, 6))
    scores[1, 2] = np.nan
    scores[2] = np.nan
    metrics = evaluate(scores, [0, 2, 1], [200] * 6, topk=(1, 5, 6))
    assert metrics["accuracy/top1"] == 0
    assert metrics["accuracy/top5"] == 0
    assert metrics["accuracy/top6"] == 100
    assert evaluate(np.eye(6), range(6), [200] * 6)["accuracy/top1"] == 100


def test_wrong_use_is_one_sentence():
    with pytest.raises(UserError, match=r"no training counts for 6 classes.*TrainingCountsHook"):
        evaluate(np.eye(6), range(6), None)
    with pytest.raises(UserError, match=r"5 training counts for 6 classes"):
        evaluate(np.eye(6), range(6), [1] * 5)
    with pytest.raises(UserError, match="topk"):
        LongTailAccuracy(topk=(0,))
