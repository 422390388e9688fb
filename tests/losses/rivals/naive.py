"""Random cases for the losses of other papers, and a comparison with naive code in float64."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

#: Sizes, scale of the logits and seed of a case.
cases = given(
    num_rows=st.integers(0, 5),
    num_classes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 2, 8]),
    seed=st.integers(0, 2**32 - 1),
)
few = settings(max_examples=30, deadline=None)


def random_case(num_rows, num_classes, width, scale, seed):
    """Logits (N, width), labels (N,), of which C is background, and f_j (C,)."""
    rng = np.random.default_rng(seed)
    cls_score = rng.normal(scale=scale, size=(num_rows, width))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    frequency = rng.uniform(0.001, 1, size=num_classes)
    return cls_score, labels, frequency


def gradient_of(function, cls_score, step=1e-6):
    """The gradient of a function of logits (N, K), by central differences."""
    gradient = np.zeros_like(cls_score)
    for place in np.ndindex(*cls_score.shape):
        shift = np.zeros_like(cls_score)
        shift[place] = step
        gradient[place] = (function(cls_score + shift) - function(cls_score - shift)) / (2 * step)
    return gradient


def check(loss, cls_score, labels, function, seed=0):
    """Compare value and gradient of a loss with those of a function of logits, in float64."""
    logits = torch.tensor(cls_score, requires_grad=True)
    torch.manual_seed(seed)
    value = loss(logits, torch.as_tensor(labels), reduction_override="sum")
    value.backward()
    np.testing.assert_allclose(value.item(), function(cls_score), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        logits.grad.numpy(), gradient_of(function, cls_score), rtol=1e-5, atol=1e-6
    )
