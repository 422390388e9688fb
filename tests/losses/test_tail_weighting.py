"""T(f) against its equations, and lambda for a wanted tail ratio against the definition."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TASK_UTILS

from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.losses.tail_weighting import (
    ExponentialDecayTail,
    GompertzDecayTail,
    ThresholdTail,
    build_tail_weighting,
    lambda_for_tail_ratio,
)
from mmdet_eql.utils.errors import UserError

LVIS_COUNTS = Path(__file__).parents[3] / "shared" / "lvis_v0.5_image_counts.json"
FREQUENCY = [0.0, 1e-6, 1e-3, 0.0017, 0.0018, 0.1, 1.0]
COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any)


def loss_with(tail_weighting, frequency=FREQUENCY, **kwargs) -> EqualizationLoss:
    loss = EqualizationLoss(num_classes=len(frequency), tail_weighting=tail_weighting, **kwargs)
    loss.set_class_frequency(torch.tensor(frequency, dtype=torch.float64))
    return loss


@pytest.mark.parametrize(
    ("config", "equation"),
    [
        (dict(type="ThresholdTail", lambda_=0.0018), lambda f: 1.0 if f < 0.0018 else 0.0),
        (dict(type="ExponentialDecayTail", a=400, n=2), lambda f: 1 - (400 * f) ** 2),
        (dict(type="ExponentialDecayTail", a=3, n=0.5), lambda f: 1 - (3 * f) ** 0.5),
        (
            dict(type="GompertzDecayTail", a=1, b=80, c=3000),
            lambda f: 1 - math.exp(-80 * math.exp(-3000 * f)),
        ),
        (
            dict(type="GompertzDecayTail", a=2, b=8, c=30),
            lambda f: 1 - 2 * math.exp(-8 * math.exp(-30 * f)),
        ),
    ],
)
def test_designs_equal_their_equations_and_are_clipped(config, equation):
    weights = loss_with(config).tail_weights()
    expected = [min(max(equation(f), 0.0), 1.0) for f in FREQUENCY]
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12, atol=1e-15)
    assert weights.dtype == torch.float64


def test_the_default_is_the_threshold_at_lambda():
    by_lambda = EqualizationLoss(num_classes=len(FREQUENCY), lambda_=0.0018)
    by_lambda.set_class_frequency(torch.tensor(FREQUENCY, dtype=torch.float64))
    by_config = loss_with(dict(type="ThresholdTail", lambda_=0.0018))
    assert torch.equal(by_lambda.tail_weights(), by_config.tail_weights())
    assert by_lambda.tail_weights().tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert EqualizationLoss().lambda_ == 1.76e-3
    assert EqualizationLoss().tail_weighting.lambda_ == 1.76e-3


def test_the_design_reaches_the_loss():
    loss = loss_with(dict(type="ExponentialDecayTail", a=400.0, n=1.0), reduction="sum")
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    loss(logits, torch.tensor([6, 0, 7])).backward()
    probability = logits.detach().sigmoid()
    tail = (1 - 400 * torch.tensor(FREQUENCY, dtype=torch.float64)).clamp(0, 1)
    # The negatives of the two foreground rows are damped by 1 - T, those of background are not.
    expected = probability * torch.stack([1 - tail, 1 - tail, torch.ones_like(tail)])
    expected[0, 6] = probability[0, 6] - 1
    expected[1, 0] = probability[1, 0] - 1
    torch.testing.assert_close(logits.grad, expected)


def tail_ratio(counts: np.ndarray, lambda_: float) -> float:
    return counts[counts < lambda_].sum() / counts.sum()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.floats(0, 1, exclude_max=True), st.integers(1, 10**6))
def test_lambda_is_the_largest_that_does_not_exceed_the_ratio(counts, wanted, num_images):
    counts = np.array(counts)
    lambda_ = lambda_for_tail_ratio(counts, wanted)
    assert tail_ratio(counts, lambda_) <= wanted * (1 + 1e-9)
    assert tail_ratio(counts, np.nextafter(lambda_, np.inf)) > wanted
    # TR does not depend on the number of images that turns counts into frequencies.
    scaled = lambda_for_tail_ratio(counts / num_images, wanted)
    assert scaled == pytest.approx(lambda_ / num_images)
    assert ((counts / num_images < scaled) == (counts < lambda_)).all()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.data(), st.integers(1, 10**6))
def test_a_ratio_that_is_reached_exactly_is_reached_in_spite_of_rounding(counts, data, num_images):
    counts = np.array(counts)
    first_head = data.draw(st.sampled_from(sorted({count for count in counts if count})))
    wanted = tail_ratio(counts, first_head)
    frequency = counts / num_images
    assert lambda_for_tail_ratio(frequency, wanted) == first_head / num_images


@pytest.mark.parametrize(
    ("counts", "wanted", "expected"),
    [
        ([1, 2, 7], 0.0, 1),  # nothing fits
        ([0, 1, 2, 7], 0.0, 1),  # only what never occurs fits
        ([1, 2, 7], 0.0999, 1),
        ([1, 2, 7], 0.1, 2),
        ([1, 2, 7], 0.2999, 2),
        ([1, 2, 7], 0.3, 7),
        ([1, 2, 7], 0.999999, 7),  # the last category never fits
        ([5, 5, 5], 0.5, 5),  # equal frequencies fit together or not at all
        ([3], 0.5, 3),
    ],
)
def test_lambda_at_the_ends(counts, wanted, expected):
    assert lambda_for_tail_ratio(np.array(counts), wanted) == expected
    assert lambda_for_tail_ratio(torch.tensor(counts), wanted) == expected


def test_tail_ratio_in_the_config_follows_the_training_set():
    config = dict(type="ThresholdTail", tail_ratio=0.3)
    assert loss_with(config, [0.1, 0.2, 0.7]).tail_weights().tolist() == [1, 1, 0]
    assert loss_with(config, [0.01, 0.02, 0.07]).tail_weights().tolist() == [1, 1, 0]
    assert loss_with(config, [0.7, 0.2, 0.2]).tail_weights().tolist() == [0, 0, 0]


def test_tail_ratio_on_lvis():
    if not LVIS_COUNTS.is_file():
        pytest.skip("the counts of LVIS v0.5 are not beside this checkout")
    data = json.loads(LVIS_COUNTS.read_text())
    count = np.array(data["image_count"])
    names = tuple(map(str, range(len(count))))
    freq = ClassFrequency(count, count, data["num_images"], names)
    # The tail of the paper's lambda is found again from its tail ratio.
    paper = freq.tail_ratio(1.76e-3)
    lambda_ = lambda_for_tail_ratio(freq.frequency, paper)
    assert (freq.frequency < lambda_).sum() == 915
    assert freq.tail_ratio(lambda_) == pytest.approx(paper, rel=1e-12)


def test_users_can_register_a_class_or_a_function():
    @TASK_UTILS.register_module(force=True)
    class HalfTailForTest:
        def __call__(self, frequency):
            return torch.full_like(frequency, 0.5)

    @TASK_UTILS.register_module(force=True)
    def linear_tail_for_test(slope):
        return lambda frequency: (1 - slope * frequency).clamp(0, 1)

    half = loss_with(dict(type="HalfTailForTest"), [0.1, 0.2])
    assert half.tail_weights().tolist() == [0.5, 0.5]
    linear = loss_with(dict(type="linear_tail_for_test", slope=5), [0.1, 0.5])
    assert linear.tail_weights().tolist() == [0.5, 0]


def test_tail_weighting_replaces_the_default_of_lambda_alone():
    """Where a config has one of them and an option sets the other, one would have no effect."""
    options = dict(num_classes=2, tail_weighting=dict(type="ThresholdTail", lambda_=0.1))
    loss = EqualizationLoss(**options)
    loss.set_class_frequency(torch.tensor([0.05, 0.5]))
    assert loss.tail_weights().tolist() == [1, 0]
    for lambda_ in (0, 0.2):
        with pytest.raises(UserError, match="and tail_weighting, which would replace it; set one"):
            EqualizationLoss(lambda_=lambda_, **options)


def test_weights_are_checked_again_for_other_frequencies():
    loss = loss_with(lambda f: 2 * f, [0.1, 0.5])
    assert loss.tail_weights().tolist() == [0.2, 1.0]
    loss.set_class_frequency(torch.tensor([0.1, 0.6]))
    for _ in range(2):  # what was refused is not taken for checked
        with pytest.raises(UserError, match=r"outside of 0\.\.1"):
            loss.tail_weights()


def test_fractional_weights_enter_the_loss_linearly():
    logits = torch.zeros(1, 2, dtype=torch.float64)
    values = [
        loss_with(lambda f, t=t: torch.tensor([0.0, t]), [0.5, 0.5])(logits, torch.tensor([0]))
        for t in (0.0, 0.25, 1.0)
    ]
    log_2 = math.log(2)
    assert [v.item() for v in values] == pytest.approx([2 * log_2, 1.75 * log_2, log_2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ThresholdTail(), ["lambda_", "tail_ratio", "exactly one"]),
        (lambda: ThresholdTail(lambda_=0.1, tail_ratio=0.1), ["exactly one"]),
        (lambda: ThresholdTail(lambda_=7), ["lambda_", "7", "between 0 and 1"]),
        (lambda: ThresholdTail(tail_ratio=1.0), ["tail_ratio", "1.0", "below 1"]),
        (lambda: ThresholdTail(tail_ratio=math.nan), ["tail_ratio", "nan"]),
        (lambda: ExponentialDecayTail(a=0, n=1), ["a is 0", "greater than 0"]),
        (lambda: ExponentialDecayTail(a=1, n=math.nan), ["n is nan"]),
        (lambda: GompertzDecayTail(a=1, b=-1, c=1), ["b is -1"]),
        (lambda: build_tail_weighting(dict(type="NoTail")), ["NoTail", "custom_imports"]),
        (lambda: build_tail_weighting(dict(lambda_=1)), ["a type"]),
        (lambda: build_tail_weighting("ThresholdTail"), ["ThresholdTail", "dict"]),
        (
            lambda: build_tail_weighting(dict(type="GompertzDecayTail", a=1)),
            ["tail_weighting", "'b' and 'c'"],
        ),
        (lambda: EqualizationLoss(lambda_=None), ["lambda_", "None", "between 0 and 1"]),
        (lambda: loss_with(lambda f: 2 * torch.ones_like(f)).tail_weights(), ["outside of 0..1"]),
        (lambda: loss_with(lambda f: f.sum()).tail_weights(), ["shape", "(7,)"]),
        (lambda: lambda_for_tail_ratio(np.zeros(3), 0.1), ["frequencies", "objects"]),
        (lambda: lambda_for_tail_ratio(np.array([0.1, np.nan]), 0.1), ["frequencies"]),
        (
            lambda: EqualizationLoss(
                num_classes=2, tail_weighting=dict(type="ThresholdTail", tail_ratio=0.1)
            )(torch.zeros(1, 2), torch.tensor([0])),
            ["no class frequencies"],
        ),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
