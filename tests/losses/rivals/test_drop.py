"""DropLoss against its equation, and its draw against the share it promises."""

import math

import pytest
import torch

from mmdet_eql.losses import DropLoss, EqualizationLoss
from tests.losses.rivals.naive import cases, check, few, random_case

LAMBDA = 0.5


def make_loss(frequency, **kwargs) -> DropLoss:
    loss = DropLoss(len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


def drop_weights(labels, frequency, drawn):
    """w_j of each proposal from uniform numbers (N, C), by loops."""
    tail = [float(f < LAMBDA) for f in frequency]
    foreground = [label for label in labels if label < len(tail)]
    share = sum(tail[label] for label in foreground) / len(foreground) if foreground else 1.0
    weights = [[1.0] * len(tail) for _ in labels]
    for r, label in enumerate(labels):
        for j, in_tail in enumerate(tail):
            excluded = label < len(tail) or drawn[r][j] >= share
            if in_tail and excluded and label != j:
                weights[r][j] = 0.0
    return weights


@few
@cases
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    cls_score, labels, frequency = random_case(num_rows, num_classes, num_classes, scale, seed)
    torch.manual_seed(seed)
    weights = drop_weights(labels, frequency, torch.rand(num_rows, num_classes).tolist())

    def equation(z):
        total = 0.0
        for r, label in enumerate(labels):
            for j in range(num_classes):
                sign = 1 if label == j else -1
                total += weights[r][j] * math.log1p(math.exp(-sign * z[r, j]))
        return total

    check(make_loss(frequency, lambda_=LAMBDA), cls_score, labels, equation, seed)


def test_background_reaches_the_tail_as_often_as_the_tail_is_foreground():
    loss = make_loss([0.9, 0.9, 0.01, 0.01], lambda_=0.1)
    labels = torch.tensor([0, 0, 1, 2] + [4] * 4000)  # one of four in the tail
    torch.manual_seed(0)
    logits = torch.zeros(len(labels), 4, requires_grad=True)
    loss(logits, labels).backward()
    reached = logits.grad != 0
    assert reached[4:, :2].all()
    share = reached[4:, 2:].double().mean()
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 8000)
    assert reached[3].tolist() == [True, True, True, False]  # foreground spares the tail


def test_without_a_tail_it_is_sigmoid_cross_entropy_and_with_background_kept_eql():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 3, 3, 2, 3])
    frequency = torch.tensor([0.5, 0.4, 0.01])
    plain = EqualizationLoss(3, lambda_=0)
    torch.testing.assert_close(DropLoss(3, lambda_=0)(logits, labels), plain(logits, labels))
    # All foreground is of the tail.
    loss, eql = make_loss(frequency, lambda_=1.0), EqualizationLoss(3, lambda_=1.0)
    eql.set_class_frequency(frequency)
    torch.testing.assert_close(loss(logits, labels), eql(logits, labels))


def test_options_of_eql_alone_are_refused():
    for name in ("exclude_background", "image_level_labels"):
        with pytest.raises(TypeError, match=name):
            DropLoss(3, **{name: True})
