"""AdaptiveClassSuppressionLoss against its equation, and its draw of background proposals."""

import math

import pytest
import torch

from mmdet_eql.losses import AdaptiveClassSuppressionLoss
from mmdet_eql.utils.errors import UserError
from tests.losses.rivals.naive import cases, check, few, random_case


def make_loss(frequency, **kwargs) -> AdaptiveClassSuppressionLoss:
    loss = AdaptiveClassSuppressionLoss(len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


@few
@cases
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    width = num_classes + 1
    cls_score, labels, frequency = random_case(num_rows, num_classes, width, scale, seed)

    def equation(z):
        total = 0.0
        for r, label in enumerate(labels):
            for j in range(width):
                if label < num_classes:
                    # The weights are those of the scores, and have no gradient.
                    weight = label == j or 1 / (1 + math.exp(-cls_score[r, j])) >= 0.7
                else:
                    # Of few background proposals, none is drawn for the other groups.
                    weight = j == num_classes or frequency[j] >= 0.6
                sign = 1 if label == j else -1
                total += weight * math.log1p(math.exp(-sign * z[r, j]))
        return total

    check(make_loss(frequency, limits=(0.3, 0.6)), cls_score, labels, equation)


def test_each_group_learns_from_its_share_of_the_background():
    loss = make_loss([0.5, 1e-3, 1e-3, 1e-5, 1e-5])
    labels = torch.tensor([0, 1] + [5] * 250)
    torch.manual_seed(0)
    draws = [loss.draw_background(labels) for _ in range(2)]
    for drawn in draws:
        assert drawn.sum(dim=0).tolist() == [250, 25, 25, 2, 2]
        assert not drawn[:2].any()
        assert torch.equal(drawn[:, 1], drawn[:, 2])  # a group learns from the same proposals
        assert not torch.equal(drawn[:, 2], drawn[:, 3])
    assert not torch.equal(*draws)


def test_the_default_limits_are_the_groups_of_lvis():
    frequency = torch.tensor([10, 11, 100, 101], dtype=torch.float64) / 57263
    drawn = make_loss(frequency).draw_background(torch.full((100,), 4))
    assert drawn.sum(dim=0).tolist() == [1, 10, 10, 100]
    frequency = torch.tensor([10, 11, 100, 101], dtype=torch.float64) / 100170
    loss = make_loss(frequency, limits=(1.005e-4, 1.005e-3))
    assert loss.draw_background(torch.full((100,), 4)).sum(dim=0).tolist() == [1, 10, 10, 100]


def test_scores_are_plain_sigmoids():
    scores = AdaptiveClassSuppressionLoss(1).get_activation(torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(threshold=2), "threshold is 2"),
        (dict(limits=(0.1,)), "give two"),
        (dict(limits=(0.2, 0.1)), "ascending"),
    ],
)
def test_wrong_use_is_one_sentence(kwargs, words):
    with pytest.raises(UserError, match=words):
        AdaptiveClassSuppressionLoss(3, **kwargs)
