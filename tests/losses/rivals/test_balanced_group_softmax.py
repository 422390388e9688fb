"""BalancedGroupSoftmaxLoss against the definition of the paper, by loops over groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.losses import BalancedGroupSoftmaxLoss
from mmdet_eql.utils.errors import UserError

BINS = (10, 100, 1000)


def make_loss(counts, **kwargs) -> BalancedGroupSoftmaxLoss:
    loss = BalancedGroupSoftmaxLoss(len(counts), **kwargs)
    loss.set_class_counts(torch.as_tensor(counts))
    return loss


def group_columns(counts):
    """Of each group, the columns of its logits and the labels that they stand for."""
    num_classes = len(counts)
    groups = []
    for g, (low, high) in enumerate(zip((0, *BINS), (*BINS, math.inf), strict=True)):
        members = [j for j in range(num_classes) if low <= counts[j] < high]
        groups.append(([*members, num_classes + g], [*members, None]))
    groups.append(([num_classes + 5, num_classes + 4], [num_classes, None]))
    return groups


def reference(cls_score, labels, counts, chosen, label_weights):
    value, gradient = 0.0, np.zeros(cls_score.shape)
    for g, (columns, meaning) in enumerate(group_columns(counts)):
        total = max(sum(label_weights[r] for r in range(len(labels)) if chosen[r, g]), 1.0)
        for r, label in enumerate(labels):
            if not chosen[r, g]:
                continue
            z = cls_score[r, columns]
            target = meaning.index(label) if label in meaning else meaning.index(None)
            log_total = z.max() + math.log(np.exp(z - z.max()).sum())
            value += label_weights[r] / total * (log_total - z[target])
            p = np.exp(z - log_total)
            p[target] -= 1
            gradient[r, columns] += label_weights[r] / total * p
    return value, gradient


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(0, 8),
    num_classes=st.integers(1, 8),
    scale=st.sampled_from([0.1, 3, 30]),
    beta=st.sampled_from([0.0, 1.0, 8.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_definition(num_rows, num_classes, scale, beta, seed):
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 9, 10, 99, 100, 999, 1000, 12345], size=num_classes)
    cls_score = rng.normal(scale=scale, size=(num_rows, num_classes + 6))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    label_weights = rng.choice([1.0, 0.5], size=num_rows)
    loss = make_loss(counts, beta=beta)
    torch.manual_seed(seed)
    chosen = loss.choose_proposals(torch.as_tensor(labels))
    logits = torch.tensor(cls_score, requires_grad=True)
    torch.manual_seed(seed)
    value = loss(logits, torch.as_tensor(labels), torch.as_tensor(label_weights))
    value.backward()
    expected, gradient = reference(cls_score, labels, counts, chosen.numpy(), label_weights)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-9)


def test_groups_by_number_of_instances():
    loss = make_loss([0, 9, 10, 99, 100, 999, 1000, 10**6])
    assert loss.groups().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert loss.get_cls_channels(8) == 8 + 4 + 2
    other = BalancedGroupSoftmaxLoss(8, bins=(500,))
    other.set_class_counts(torch.tensor([0, 9, 10, 99, 100, 999, 1000, 10**6]))
    assert other.groups().tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert other.get_cls_channels(8) == 8 + 2 + 2


def test_groups_follow_the_counts():
    loss = make_loss([5000, 10, 9])
    logits, labels = torch.randn(4, 9), torch.tensor([0, 1, 2, 3])
    before = loss.get_activation(logits), loss.choose_proposals(labels)
    loss.set_class_counts(torch.tensor([9, 9, 5000]))
    assert not torch.equal(loss.get_activation(logits), before[0])
    assert not torch.equal(loss.choose_proposals(labels), before[1])
    fresh = make_loss([9, 9, 5000])
    assert torch.equal(loss.get_activation(logits), fresh.get_activation(logits))


def test_others_are_chosen_at_random_beta_per_proposal():
    counts = [5, 50, 500, 5000]
    labels = torch.tensor([0] * 2 + [3] * 30 + [4] * 100)
    loss = make_loss(counts, beta=8)
    torch.manual_seed(0)
    chosen = loss.choose_proposals(labels)
    assert chosen.sum(dim=0).tolist() == [2 + 16, 0, 0, 132, 132]
    assert chosen[labels == 0, 0].all()
    assert chosen[labels == 3, 3].all()
    assert not torch.equal(chosen, loss.choose_proposals(labels))
    torch.manual_seed(0)
    assert torch.equal(chosen, loss.choose_proposals(labels))
    # Every other proposal has the same chance.
    share = torch.stack([loss.choose_proposals(labels)[2:, 0] for _ in range(2000)])
    expected = 16 / 130
    bound = 5 * math.sqrt(expected * (1 - expected) / 2000)
    assert (share.double().mean(0) - expected).abs().max() < bound


def test_scores_are_the_product_of_group_and_foreground():
    counts = [5, 7, 50, 5000]
    loss = make_loss(counts)
    logits = torch.randn(6, 10, dtype=torch.float64)
    scores = loss.get_activation(logits).numpy()
    for r, z in enumerate(logits.numpy()):
        foreground = math.exp(z[8]) / (math.exp(z[8]) + math.exp(z[9]))
        for columns, meaning in group_columns(counts)[:-1]:
            total = np.exp(z[columns]).sum()
            for column, label in zip(columns, meaning, strict=True):
                if label is not None:
                    expected = math.exp(z[column]) / total * foreground
                    assert scores[r, label] == pytest.approx(expected)
        assert scores[r, 4] == pytest.approx(1 - foreground)


def test_accuracy():
    loss = make_loss([5, 50])
    logits = torch.zeros(3, 8)
    logits[:, -2] = 1.0
    logits[0, 0] = logits[1, 0] = 3.0
    accuracy = loss.get_accuracy(logits, torch.tensor([0, 1, 2]))
    assert accuracy["acc_objectness"] == pytest.approx(200 / 3)
    assert accuracy["acc_classes"] == 50


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(bins=(100, 10)), r"bins is \(100, 10\)"),
        (dict(bins=(0, 10)), "at least 1"),
        (dict(beta=-1), "beta is -1"),
    ],
)
def test_wrong_use_is_one_sentence(kwargs, words):
    with pytest.raises(UserError, match=words):
        BalancedGroupSoftmaxLoss(3, **kwargs)
