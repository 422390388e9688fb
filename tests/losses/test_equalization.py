"""EqualizationLoss against the equation of the paper, written out in float64."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.utils.errors import UserError

LVIS_COUNTS = Path(__file__).parents[3] / "shared" / "lvis_v0.5_image_counts.json"


def reference(cls_score, labels, frequency, lambda_, exclude_background=True):
    """Equations 3 and 4 by loops over proposals and categories: loss and gradient of each."""
    num_rows, num_classes = cls_score.shape
    losses = np.zeros(num_rows)
    gradient = np.zeros((num_rows, num_classes))
    for r in range(num_rows):
        excluded = 1 if labels[r] < num_classes or not exclude_background else 0
        for j in range(num_classes):
            y = 1 if labels[r] == j else 0
            tail = 1 if frequency[j] < lambda_ else 0
            w = 1 - excluded * tail * (1 - y)
            z = cls_score[r, j]
            # log p and log(1 - p) without forming p, which rounds to 1 for large z.
            log_p = -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))
            log_not_p = log_p - z
            losses[r] -= w * (y * log_p + (1 - y) * log_not_p)
            gradient[r, j] = w * (math.exp(log_p) - y)
    return losses, gradient


def make_loss(frequency, **kwargs) -> EqualizationLoss:
    loss = EqualizationLoss(num_classes=len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


@st.composite
def cases(draw):
    num_rows = draw(st.integers(0, 6))
    num_classes = draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cls_score = rng.normal(scale=draw(st.sampled_from([0.1, 3, 30])), size=(num_rows, num_classes))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    frequency = rng.uniform(0, 0.01, size=num_classes)
    # Also a category exactly at the threshold, which does not belong to the tail.
    lambda_ = draw(st.sampled_from([0.0, 0.004, float(frequency[0]), 1.0]))
    return cls_score, labels, frequency, lambda_, draw(st.booleans())


@settings(max_examples=100, deadline=None)
@given(cases())
def test_value_and_gradient_equal_the_equation(case):
    cls_score, labels, frequency, lambda_, exclude = case
    loss = make_loss(frequency, lambda_=lambda_, exclude_background=exclude, reduction="sum")
    logits = torch.tensor(cls_score, requires_grad=True)
    value = loss(logits, torch.as_tensor(labels))
    value.backward()

    losses, gradient = reference(cls_score, labels, frequency, lambda_, exclude)
    np.testing.assert_allclose(value.item(), losses.sum(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def lvis_frequency() -> ClassFrequency:
    if not LVIS_COUNTS.is_file():
        pytest.skip("the counts of LVIS v0.5 are not beside this checkout")
    data = json.loads(LVIS_COUNTS.read_text())
    count = np.array(data["image_count"])
    names = tuple(str(index) for index in range(len(count)))
    return ClassFrequency(count, count, data["num_images"], names)


def test_at_the_scale_of_lvis():
    freq = lvis_frequency()
    rng = np.random.default_rng(0)
    cls_score = rng.normal(-4, 3, size=(24, 1230))
    labels = rng.integers(0, 1231, size=24)
    labels[:6] = 1230
    labels[6:12] = np.flatnonzero(freq.image_count <= 3)[:6]
    loss = make_loss(freq.frequency, reduction="none")
    logits = torch.tensor(cls_score, requires_grad=True)
    value = loss(logits, torch.as_tensor(labels))
    value.sum().backward()

    losses, gradient = reference(cls_score, labels, freq.frequency, 1.76e-3)
    np.testing.assert_allclose(value.detach().numpy(), losses, rtol=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_thresholds_of_the_paper_on_lvis():
    freq = lvis_frequency()
    assert freq.tail_ratio(0.176e-3) == pytest.approx(0.00934, abs=5e-6)
    assert int(make_loss(freq.frequency, lambda_=1.76e-3).tail_weights().sum()) == 915


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 6),
    num_classes=st.integers(1, 7),
    scale=st.sampled_from([0.1, 3, 100]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    with_verified=st.booleans(),
    exclude_background=st.booleans(),
    label_weights=st.booleans(),
    avg_factor=st.sampled_from([None, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fractional_tails_and_verified_categories_equal_the_equation(
    num_rows,
    num_classes,
    scale,
    dtype,
    with_verified,
    exclude_background,
    label_weights,
    avg_factor,
    seed,
):
    """w_j = 1 - E(r) T(f_j) (1 - y_j) with T(f) = f, and 1 where the category is verified."""
    torch.manual_seed(seed)
    frequency = torch.rand(num_classes, dtype=torch.float64)
    labels = torch.randint(num_classes + 1, (num_rows,))
    logits = (scale * torch.randn(num_rows, num_classes)).to(dtype).requires_grad_()
    weights = torch.rand(num_rows) if label_weights else None
    verified = torch.rand(2, num_classes) < 0.3 if with_verified else None
    image = torch.randint(2, (num_rows,))
    loss = make_loss(
        frequency,
        tail_weighting=lambda f: f,
        exclude_background=exclude_background,
        image_level_labels=with_verified,
        loss_weight=1.5,
    )
    value = loss(logits, labels, weights, avg_factor=avg_factor, verified=verified, image=image)
    value.backward()

    z = logits.detach().double()
    y = torch.nn.functional.one_hot(labels, num_classes + 1)[:, :-1].double()
    w = torch.ones_like(z)
    for r, j in np.ndindex(*z.shape):
        excluded = labels[r] < num_classes or not exclude_background
        known = with_verified and verified[image[r], j]
        if excluded and not known and y[r, j] == 0:
            w[r, j] = 1 - frequency[j]
    of_row = 1.5 * (weights.double() if label_weights else torch.ones(num_rows).double())
    of_row = of_row / (avg_factor or max(num_rows, 1))
    losses = w * torch.nn.functional.softplus(torch.where(y > 0, -z, z), threshold=50)
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-5}.get(dtype, 1e-2)
    torch.testing.assert_close(
        value.double(), (of_row[:, None] * losses).sum(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        logits.grad.double(), of_row[:, None] * w * (z.sigmoid() - y), rtol=tolerance, atol=1e-6
    )


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_does_not_exist_is_refused(label):
    loss = make_loss(torch.rand(3))
    with pytest.raises(UserError, match="between 0 and 3"):
        loss(torch.zeros(1, 3), torch.tensor([label]))


def test_frequencies_are_checked_again_when_they_change():
    loss = make_loss(torch.tensor([0.5, 0.001]))
    logits, labels = torch.zeros(1, 2), torch.tensor([0])
    loss(logits, labels)
    checkpoint = EqualizationLoss(num_classes=2).state_dict()  # without frequencies
    loss.load_state_dict(checkpoint)
    with pytest.raises(UserError, match="no class frequencies"):
        loss(logits, labels)


def test_background_pushes_every_category_down():
    loss = make_loss(torch.tensor([0.5, 0.001]))
    logits = torch.zeros(3, 2, requires_grad=True)
    loss(logits, torch.full((3,), 2), avg_factor=1).backward()
    torch.testing.assert_close(logits.grad, torch.full((3, 2), 0.5))


def test_foreground_spares_the_tail_only():
    loss = make_loss(torch.tensor([0.5, 0.3, 0.001]), lambda_=0.01)
    logits = torch.zeros(1, 3, requires_grad=True)
    loss(logits, torch.tensor([0])).backward()
    assert torch.equal(logits.grad, torch.tensor([[-0.5, 0.5, 0.0]]))


def test_lambda_zero_is_sigmoid_cross_entropy():
    torch.manual_seed(0)
    logits = torch.randn(7, 5)
    labels = torch.randint(0, 6, (7,))
    loss = EqualizationLoss(num_classes=5, lambda_=0)  # needs no frequencies
    targets = torch.nn.functional.one_hot(labels, 6)[:, :5].float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="sum"
    )
    torch.testing.assert_close(loss(logits, labels), expected / 7)


def test_scores_have_a_zero_background_column():
    loss = EqualizationLoss(num_classes=2)
    scores = loss.get_activation(torch.tensor([[0.0, 100.0]]))
    assert torch.equal(scores, torch.tensor([[0.5, 1.0, 0.0]]))


def test_accuracy_is_that_of_foreground():
    loss = EqualizationLoss(num_classes=2)
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    assert loss.get_accuracy(logits, torch.tensor([0, 1, 2]))["acc_classes"] == 50
    assert loss.get_accuracy(logits, torch.tensor([2, 2, 2]))["acc_classes"] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EqualizationLoss(lambda_=-1), ["lambda_", "-1", "between 0 and 1"]),
        (
            lambda: EqualizationLoss(num_classes=3).set_class_frequency(torch.rand(4)),
            ["4", "3", "num_classes"],
        ),
        (
            lambda: EqualizationLoss(num_classes=2).set_class_frequency(np.array([5, 7])),
            ["counts", "divided"],
        ),
        (
            lambda: EqualizationLoss(num_classes=2).set_class_frequency(
                torch.tensor([0.1, math.nan])
            ),
            ["between 0 and 1"],
        ),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
