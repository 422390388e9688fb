"""SoftmaxEqualizationLoss against the equation of the paper, written out in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.losses import SoftmaxEqualizationLoss
from mmdet_eql.utils.errors import UserError


def reference(cls_score, labels, tail, beta):
    """The equation by loops over samples and logits: loss and gradient of each."""
    losses, gradient = np.zeros(len(labels)), np.zeros(cls_score.shape)
    for r, label in enumerate(labels):
        z = cls_score[r]
        w = [1 - beta[r, k] * tail[k] * (k != label) for k in range(len(z))]
        top = max(z_k for z_k, w_k in zip(z, w, strict=True) if w_k > 0)
        total = sum(w_k * math.exp(z_k - top) for z_k, w_k in zip(z, w, strict=True) if w_k > 0)
        losses[r] = math.log(total) + top - z[label]
        for k in range(len(z)):
            p = w[k] * math.exp(z[k] - top) / total if w[k] > 0 else 0.0
            gradient[r, k] = p - (k == label)
    return losses, gradient


def make_loss(frequency, **kwargs) -> SoftmaxEqualizationLoss:
    kwargs.setdefault("lambda_", 0.01)
    loss = SoftmaxEqualizationLoss(num_classes=len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 6),
    num_logits=st.integers(1, 7),
    scale=st.sampled_from([0.1, 3, 300]),
    seed=st.integers(0, 2**32 - 1),
    binary=st.booleans(),
)
def test_value_and_gradient_equal_the_equation(num_rows, num_logits, scale, seed, binary):
    rng = np.random.default_rng(seed)
    cls_score = rng.normal(scale=scale, size=(num_rows, num_logits))
    labels = rng.integers(0, num_logits, size=num_rows)
    tail = rng.uniform(size=num_logits) * rng.integers(0, 2, size=num_logits)
    tail = np.ceil(tail) if binary else tail
    beta = rng.integers(0, 2, size=(num_rows, num_logits))
    logits = torch.tensor(cls_score, requires_grad=True)
    loss = SoftmaxEqualizationLoss(num_logits, lambda_=0, has_background=False)
    loss.tail_weights = lambda: torch.as_tensor(tail)
    loss.draw_beta = lambda *_: torch.as_tensor(beta).bool()
    value = loss.row_losses(logits, torch.as_tensor(labels))
    value.sum().backward()

    losses, gradient = reference(cls_score, labels, tail, beta)
    np.testing.assert_allclose(value.detach().numpy(), losses, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_the_module_draws_beta_and_spares_background():
    """Value and gradient of the module equal the equation with the beta that it draws."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(0, 0.02, size=5)
    cls_score, labels = rng.normal(size=(8, 6)), rng.integers(0, 6, size=8)
    loss = make_loss(frequency, gamma=0.5, reduction="none")
    logits = torch.tensor(cls_score, requires_grad=True)
    torch.manual_seed(7)
    beta = (torch.rand(8, 6) < 0.5).numpy()
    torch.manual_seed(7)
    value = loss(logits, torch.as_tensor(labels))
    value.sum().backward()
    tail = np.append((frequency < 0.01).astype(float), 0.0)
    losses, gradient = reference(cls_score, labels, tail, beta)
    np.testing.assert_allclose(value.detach().numpy(), losses, rtol=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)
    assert (logits.grad[labels != 5, 5] > 0).all()


@pytest.mark.parametrize("has_background", [True, False])
def test_gamma_zero_is_cross_entropy_to_the_last_bit(has_background):
    torch.manual_seed(0)
    loss = make_loss(torch.rand(6) * 0.02, gamma=0.0, has_background=has_background)
    width = 6 + has_background
    logits = torch.randn(64, width, requires_grad=True)
    plain = logits.detach().clone().requires_grad_()
    labels = torch.randint(0, width, (64,))
    value = loss(logits, labels, reduction_override="none")
    expected = F.cross_entropy(plain, labels, reduction="none")
    value.sum().backward()
    expected.sum().backward()
    assert torch.equal(value, expected)
    assert torch.equal(logits.grad, plain.grad)


def test_lambda_zero_is_cross_entropy_and_needs_no_frequencies():
    loss = SoftmaxEqualizationLoss(num_classes=3, lambda_=0, gamma=1.0)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 3])
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


def test_gamma_one_removes_exactly_the_negatives_of_the_tail():
    frequency = torch.tensor([0.5, 0.001, 0.3, 0.002])
    loss = make_loss(frequency, gamma=1.0, reduction="sum")
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    loss(logits, labels).backward()
    kept = torch.tensor([True, False, True, False, True]).repeat(6, 1)
    kept[torch.arange(6), labels] = True
    assert torch.equal(logits.grad != 0, kept)
    # What is kept is a softmax among itself.
    for row in range(6):
        expected = logits[row, kept[row]].detach().softmax(0)
        expected[logits.detach()[row, kept[row]] == logits.detach()[row, labels[row]]] -= 1
        torch.testing.assert_close(logits.grad[row, kept[row]], expected)


def test_exclude_background_lets_background_push_the_tail_down():
    labels = torch.tensor([0, 2])
    for exclude, expected in ((True, [False, True]), (False, [False, False])):
        loss = make_loss([0.5, 0.001], gamma=1.0, exclude_background=exclude)
        logits = torch.zeros(2, 3, requires_grad=True)
        loss(logits, labels).backward()
        assert (logits.grad[:, 1] > 0).tolist() == expected


def test_beta_is_bernoulli_per_sample_and_category_and_reproducible():
    loss = make_loss(torch.full((50,), 0.001), gamma=0.9)
    logits, labels = torch.zeros(2000, 51), torch.zeros(2000, dtype=torch.long)
    torch.manual_seed(1)
    first = loss.draw_beta(logits, labels)
    second = loss.draw_beta(logits, labels)
    torch.manual_seed(1)
    assert torch.equal(first, loss.draw_beta(logits, labels))
    assert not torch.equal(first, second)
    # 5 standard deviations of a Bernoulli mean; every row and every column is drawn by itself.
    share = first.double()
    assert abs(share.mean() - 0.9) < 5 * math.sqrt(0.09 / share.numel())
    assert (share.mean(dim=0) - 0.9).abs().max() < 5 * math.sqrt(0.09 / 2000)
    assert len(torch.unique(first, dim=0)) > 1900


@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_the_mean_over_draws_is_the_expectation(gamma):
    """E[L] = sum over subsets S of the tail without the label of gamma^|S| (1 - gamma)^(n - |S|)
    times the loss without S, within five standard errors of 20,000 draws (below 0.02 here)."""
    torch.manual_seed(0)
    tail = [1, 3, 4]
    loss = make_loss([0.5, 0.001, 0.3, 0.002, 0.003], gamma=gamma, has_background=False)
    logits = torch.randn(5, dtype=torch.float64) * 2
    for label in range(5):
        ignorable = [k for k in tail if k != label]
        expected = 0.0
        for subset in itertools.product((False, True), repeat=len(ignorable)):
            kept = torch.ones(5, dtype=torch.bool)
            kept[[k for k, out in zip(ignorable, subset, strict=True) if out]] = False
            share = math.prod(gamma if out else 1 - gamma for out in subset)
            expected += share * float(logits[kept].logsumexp(0) - logits[label])
        draws = loss(
            logits.expand(20_000, 5), torch.full((20_000,), label), reduction_override="none"
        )
        error = float(draws.std()) / math.sqrt(len(draws))
        assert error < 0.02 / 5
        assert abs(float(draws.mean()) - expected) <= 5 * error + 1e-12


def test_count_threshold_equals_the_frequency_of_that_count():
    counts = torch.tensor([100, 20, 19, 0])
    by_count = SoftmaxEqualizationLoss(num_classes=4, lambda_count=20, has_background=False)
    by_count.set_class_counts(counts)
    by_frequency = make_loss(counts / counts.sum(), lambda_=20 / 139, has_background=False)
    assert by_count.tail_weights().tolist() == [0, 0, 1, 1]
    assert by_frequency.tail_weights().tolist() == [0, 0, 1, 1]
    loss = SoftmaxEqualizationLoss(num_classes=4, lambda_count=20)
    loss.load_state_dict(by_count.state_dict())
    assert loss.tail_weights().tolist() == [0, 0, 1, 1]


def test_other_tail_weightings_are_used():
    weighting = dict(type="ExponentialDecayTail", a=1.0, n=1.0)
    loss = make_loss([0.25, 0.75], lambda_=None, tail_weighting=weighting, gamma=1.0)
    value = loss(torch.zeros(1, 3), torch.tensor([2]))
    torch.testing.assert_close(value, torch.tensor(1 + 0.25 + 0.75).log())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_low_precision_and_extreme_logits_are_finite(dtype, scale, gamma):
    torch.manual_seed(0)
    # Also the case that every category is in the tail, and T just below 1.
    for weighting in (
        dict(type="ThresholdTail", lambda_=1.0),
        dict(type="ExponentialDecayTail", a=1e-9, n=1),
        dict(type="ThresholdTail", lambda_=0.01),
    ):
        loss = make_loss([0.5, 0.001, 0.0001], lambda_=None, tail_weighting=weighting, gamma=gamma)
        logits = (torch.randn(32, 4) * scale).to(dtype).requires_grad_()
        value = loss(logits, torch.randint(0, 4, (32,)))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_scores_and_accuracy():
    loss = make_loss([0.5, 0.001])
    logits = torch.tensor([[0.0, 9.0, 3.0], [0.0, 2.0, 3.0], [9.0, 1.0, 2.0]])
    torch.testing.assert_close(loss.get_activation(logits), logits.softmax(1))
    # The last category can be predicted.
    assert loss.get_activation(logits)[:, :-1].argmax(1).tolist() == [1, 1, 0]
    accuracy = loss.get_accuracy(logits, torch.tensor([1, 1, 2]))
    assert accuracy["acc"] == pytest.approx(100 / 3)
    assert accuracy["acc_classes"] == 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SoftmaxEqualizationLoss(), ["exactly one", "lambda_count"]),
        (lambda: SoftmaxEqualizationLoss(lambda_=0.1, lambda_count=3), ["exactly one"]),
        (lambda: SoftmaxEqualizationLoss(lambda_=20), ["lambda_", "20", "between 0 and 1"]),
        (lambda: SoftmaxEqualizationLoss(lambda_count=-1), ["lambda_count", "-1"]),
        (lambda: SoftmaxEqualizationLoss(lambda_=0.1, gamma=1.1), ["gamma", "1.1"]),
        (
            lambda: SoftmaxEqualizationLoss(2, lambda_count=5)(
                torch.zeros(1, 3), torch.tensor([0])
            ),
            ["no class counts", "set_class_counts"],
        ),
        (
            lambda: SoftmaxEqualizationLoss(2, lambda_count=5).set_class_counts(np.zeros(3)),
            ["3 class counts", "2 categories"],
        ),
        (
            lambda: SoftmaxEqualizationLoss(2, lambda_count=5).set_class_counts(np.array([0.5, 2])),
            ["whole numbers"],
        ),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
