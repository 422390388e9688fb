"""Class-balanced losses against the equation, written out in 50 digits where it matters."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.losses import (
    ClassBalancedSigmoidLoss,
    ClassBalancedSoftmaxLoss,
    class_balanced_weights,
)
from mmdet_eql.utils.errors import UserError


def reference_weights(counts, beta):
    """In 50 digits, so that 1 - beta^n keeps enough of them."""
    with localcontext() as context:
        context.prec = 50
        exact = Decimal(beta)
        inverse = [(1 - exact) / (1 - exact ** max(int(n), 1)) for n in counts]
        return [float(w * len(inverse) / sum(inverse)) for w in inverse]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999]),
)
def test_weights_equal_the_equation(counts, beta):
    weights = class_balanced_weights(torch.tensor(counts, dtype=torch.float64), beta)
    np.testing.assert_allclose(weights.numpy(), reference_weights(counts, beta), rtol=1e-9)


def test_the_ends_of_beta():
    counts = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)
    assert class_balanced_weights(counts, 0.0).tolist() == [1, 1, 1]
    inverse = class_balanced_weights(counts, 1 - 1e-12)
    torch.testing.assert_close(inverse[0] / inverse, counts, rtol=1e-3, atol=0)


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_classes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 3, 30]),
    softmax=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, softmax, seed):
    rng = np.random.default_rng(seed)
    cls_score = rng.normal(scale=scale, size=(num_rows, num_classes + softmax))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    counts = rng.integers(0, 1000, size=num_classes)
    row_weights = np.array([*reference_weights(counts, 0.99), 1.0])[labels]
    losses, gradient = np.zeros(num_rows), np.zeros(cls_score.shape)
    for r, label in enumerate(labels):
        z = cls_score[r]
        if softmax:
            log_total = z.max() + math.log(np.exp(z - z.max()).sum())
            losses[r], gradient[r] = log_total - z[label], np.exp(z - log_total)
        else:
            losses[r] = sum(math.log1p(math.exp(-abs(x))) + max(x, 0) for x in z)
            losses[r] -= z[label] if label < num_classes else 0
            gradient[r] = 1 / (1 + np.exp(-z))
        if softmax or label < num_classes:
            gradient[r, label] -= 1
    kind = ClassBalancedSoftmaxLoss if softmax else ClassBalancedSigmoidLoss
    loss = kind(num_classes, beta=0.99, reduction="none")
    loss.set_class_counts(counts)
    logits = torch.tensor(cls_score, requires_grad=True)
    value = loss(logits, torch.as_tensor(labels))
    value.sum().backward()
    np.testing.assert_allclose(value.detach().numpy(), losses * row_weights, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        logits.grad.numpy(), gradient * row_weights[:, None], rtol=1e-6, atol=1e-9
    )


def test_a_plain_classifier():
    loss = ClassBalancedSoftmaxLoss(3, beta=0.0, has_background=False)
    loss.set_class_counts(torch.tensor([7, 3, 1]))
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("beta", [1.0, -0.1, math.nan])
def test_wrong_use_is_one_sentence(beta):
    with pytest.raises(UserError, match=f"beta is {beta}"):
        ClassBalancedSigmoidLoss(3, beta=beta)
