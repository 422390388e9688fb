"""FederatedLoss against its equation, and its draw against the probabilities it promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.losses import FederatedLoss
from mmdet_eql.utils.errors import UserError


def make_loss(frequency, **kwargs) -> FederatedLoss:
    loss = FederatedLoss(len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_classes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 3, 30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    rng = np.random.default_rng(seed)
    cls_score = rng.normal(scale=scale, size=(num_rows, num_classes))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    chosen = rng.integers(0, 2, size=num_classes)
    chosen[labels[labels < num_classes]] = 1
    losses, gradient = np.zeros(num_rows), np.zeros(cls_score.shape)
    for r in range(num_rows):
        for j in range(num_classes):
            z, y = cls_score[r, j], float(labels[r] == j)
            losses[r] += chosen[j] * (math.log1p(math.exp(-abs(z))) + max(z, 0) - z * y)
            gradient[r, j] = chosen[j] * (1 / (1 + math.exp(-z)) - y)
    logits = torch.tensor(cls_score, requires_grad=True)
    loss = make_loss(np.ones(num_classes), reduction="none")
    loss.choose_categories = lambda labels: torch.as_tensor(chosen).bool()
    value = loss(logits, torch.as_tensor(labels))
    value.sum().backward()
    np.testing.assert_allclose(value.detach().numpy(), losses, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_the_module_uses_its_choice():
    loss = make_loss(torch.rand(20), num_chosen=6)
    logits = torch.zeros(3, 20, requires_grad=True)
    labels = torch.tensor([4, 4, 20])
    torch.manual_seed(3)
    chosen = loss.choose_categories(labels)
    torch.manual_seed(3)
    loss(logits, labels).backward()
    assert torch.equal((logits.grad != 0).all(dim=0), chosen)
    assert torch.equal((logits.grad != 0).any(dim=0), chosen)


def test_what_occurs_is_chosen_and_others_fill_up():
    loss = make_loss(torch.rand(100), num_chosen=10)
    labels = torch.tensor([3, 99, 99, 100])
    for _ in range(20):
        chosen = loss.choose_categories(labels)
        assert chosen[3]
        assert chosen[99]
        assert chosen.sum() == 10
    # More than fit: all that occurs, and nothing else.
    assert loss.choose_categories(torch.arange(30)).nonzero().squeeze(1).tolist() == list(range(30))
    # Background alone, and a first choice that is not always the same.
    background = torch.tensor([100, 100])
    draws = [loss.choose_categories(background) for _ in range(5)]
    assert all(draw.sum() == 10 for draw in draws)
    assert any(not torch.equal(draws[0], draw) for draw in draws)


@pytest.mark.parametrize("power", [0.5, 1.0, 0.0])
def test_others_are_drawn_by_a_power_of_their_frequency(power):
    frequency = torch.tensor([0.64, 0.16, 0.04, 0.01, 0.5])
    loss = make_loss(frequency, num_chosen=2, freq_power=power)
    torch.manual_seed(0)
    # Category 4 occurs, so that exactly one of the others is drawn.
    draws = torch.stack([loss.choose_categories(torch.tensor([4])) for _ in range(4000)])
    expected = frequency[:4].double() ** power
    expected /= expected.sum()
    # 5 standard deviations of a share of 4,000 draws.
    bound = 5 * (expected * (1 - expected) / 4000).sqrt()
    assert ((draws[:, :4].double().mean(0) - expected).abs() < bound).all()


@settings(max_examples=50, deadline=None)
@given(
    num_classes=st.integers(1, 60),
    num_chosen=st.integers(0, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_draw_is_that_of_multinomial(num_classes, num_chosen, seed):
    torch.manual_seed(seed)
    frequency = torch.rand(num_classes, dtype=torch.float64) * (torch.rand(num_classes) < 0.7)
    labels = torch.randint(num_classes + 1, (4,))
    loss = make_loss(frequency, num_chosen=num_chosen)
    torch.manual_seed(seed)
    chosen = loss.choose_categories(labels)

    expected = torch.zeros(num_classes, dtype=torch.bool)
    expected[labels[labels < num_classes]] = True
    rest = frequency.sqrt().masked_fill(expected, 0)
    number = min(num_chosen - int(expected.sum()), int((rest > 0).sum()))
    torch.manual_seed(seed)
    if number > 0:
        expected[rest.multinomial(number)] = True
    assert torch.equal(chosen, expected)


def test_what_never_occurs_in_training_is_not_drawn():
    loss = make_loss(torch.tensor([0.5, 0.0, 0.1, 0.0]), num_chosen=50)
    assert loss.choose_categories(torch.tensor([4])).tolist() == [True, False, True, False]
    assert loss.choose_categories(torch.tensor([1])).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [(dict(num_chosen=-1), "num_chosen is -1"), (dict(freq_power=-0.5), "freq_power is -0.5")],
)
def test_wrong_use_is_one_sentence(kwargs, words):
    with pytest.raises(UserError, match=words):
        FederatedLoss(3, **kwargs)
