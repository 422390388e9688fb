"""EffectiveClassMarginLoss against its equations."""

import math

import pytest
import torch

from mmdet_eql.losses import EffectiveClassMarginLoss
from mmdet_eql.utils.errors import UserError
from tests.losses.rivals.naive import cases, check, few, random_case

RATIO = 6.3313


def make_loss(frequency, **kwargs) -> EffectiveClassMarginLoss:
    loss = EffectiveClassMarginLoss(len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


@few
@cases
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    width = num_classes + 1
    cls_score, labels, frequency = random_case(num_rows, num_classes, width, scale, seed)
    counts = [*frequency, RATIO * sum(frequency)]

    def equation(z):
        total = 0.0
        for r, label in enumerate(labels):
            for j, n_pos in enumerate(counts):
                n_neg = sum(counts) - n_pos
                fourth_roots = n_pos**0.25 + n_neg**0.25
                w_pos, w_neg = fourth_roots / n_neg**0.25, fourth_roots / n_pos**0.25
                up, down = w_pos * math.exp(z[r, j]), w_neg * math.exp(-z[r, j])
                a = n_neg / n_pos
                weight = a * math.log((1 + a) / a)
                total -= weight * math.log((up if label == j else down) / (up + down))
        return total

    check(make_loss(frequency), cls_score, labels, equation)


def test_only_the_ratios_of_the_frequencies_count():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 3])
    frequency = torch.tensor([0.4, 0.1, 0.01], dtype=torch.float64)
    expected = make_loss(frequency)(logits, labels)
    torch.testing.assert_close(make_loss(frequency / 7)(logits, labels), expected)


def test_rare_categories_have_the_larger_margin_and_the_absent_that_of_the_rarest():
    shift, weight = make_loss(torch.tensor([0.5, 0.01, 0.0])).margins()
    assert shift[0] > shift[1] == shift[2]
    assert weight[3] < weight[0] < weight[1] == weight[2] < 1


def test_scores_are_sigmoids_times_foreground():
    loss = EffectiveClassMarginLoss(1)
    scores = loss.get_activation(torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([[0.25, 0.5]]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EffectiveClassMarginLoss(background_ratio=0), "background_ratio is 0"),
        (lambda: make_loss([0.0, 0.0]).margins(), "all class frequencies are 0"),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()
