"""SigmoidFocalLoss against the equation, written out in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import FocalLoss

from mmdet_eql.losses import SigmoidFocalLoss
from mmdet_eql.utils.errors import UserError


def log_sigmoid(z):
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def reference(cls_score, labels, gamma, alpha):
    losses, gradient = np.zeros(len(labels)), np.zeros(cls_score.shape)
    for r, label in enumerate(labels):
        for j, z in enumerate(cls_score[r]):
            sign = 1 if j == label else -1
            weight = 1.0 if alpha is None else (alpha if j == label else 1 - alpha)
            log_q, log_not_q = log_sigmoid(sign * z), log_sigmoid(-sign * z)
            q, not_q = math.exp(log_q), math.exp(log_not_q)
            modulation = math.exp(gamma * log_not_q)
            losses[r] -= weight * modulation * log_q
            # d/dz of q is q (1 - q): both factors of the product contribute.
            gradient[r, j] = weight * sign * modulation * (gamma * q * log_q - not_q)
    return losses, gradient


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_classes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 3, 30]),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    alpha=st.sampled_from([None, 0.0, 0.25, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, gamma, alpha, seed):
    rng = np.random.default_rng(seed)
    cls_score = rng.normal(scale=scale, size=(num_rows, num_classes))
    labels = rng.integers(0, num_classes + 1, size=num_rows)
    loss = SigmoidFocalLoss(num_classes, gamma, alpha, reduction="none")
    logits = torch.tensor(cls_score, requires_grad=True)
    value = loss(logits, torch.as_tensor(labels))
    value.sum().backward()
    losses, gradient = reference(cls_score, labels, gamma, alpha)
    np.testing.assert_allclose(value.detach().numpy(), losses, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_it_is_the_focal_loss_of_mmdet_on_the_same_logits():
    torch.manual_seed(0)
    logits, labels = torch.randn(16, 5), torch.randint(0, 6, (16,))
    theirs = FocalLoss(gamma=2.0, alpha=0.25, reduction="sum")(logits, labels)
    torch.testing.assert_close(SigmoidFocalLoss(5, reduction="sum")(logits, labels), theirs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [(dict(gamma=-1), "gamma is -1"), (dict(gamma=math.nan), "nan"), (dict(alpha=2), "alpha is 2")],
)
def test_wrong_use_is_one_sentence(kwargs, words):
    with pytest.raises(UserError, match=words):
        SigmoidFocalLoss(3, **kwargs)
