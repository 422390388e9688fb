"""LogitAdjustedSoftmaxLoss against its definition."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.losses import LogitAdjustedSoftmaxLoss
from mmdet_eql.utils.errors import UserError


def make_loss(frequency, **kwargs) -> LogitAdjustedSoftmaxLoss:
    loss = LogitAdjustedSoftmaxLoss(len(frequency), **kwargs)
    loss.set_class_frequency(torch.as_tensor(frequency))
    return loss.eval()


@settings(max_examples=100, deadline=None)
@given(
    num_classes=st.integers(1, 6),
    tau=st.sampled_from([0.5, 1.0, 2.0, -1.0]),
    has_background=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_scores_equal_the_definition(num_classes, tau, has_background, seed):
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(1e-4, 1, size=num_classes)
    cls_score = rng.normal(scale=3, size=(4, num_classes + has_background))
    loss = make_loss(frequency, tau=tau, has_background=has_background)
    scores = loss.get_activation(torch.tensor(cls_score))
    for r, z in enumerate(cls_score):
        p = np.exp(z) / np.exp(z).sum()
        # p / pi^tau, scaled back to what the categories had together.
        adjusted = p[:num_classes] / frequency**tau
        adjusted *= p[:num_classes].sum() / adjusted.sum()
        expected = [*adjusted, *p[num_classes:]]
        np.testing.assert_allclose(scores[r].numpy(), expected, rtol=1e-6)


def test_training_is_plain_softmax():
    loss = make_loss([0.5, 0.001]).train()
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 2])
    value = loss(logits, labels)
    assert torch.equal(value, F.cross_entropy(logits, labels, reduction="none").mean())
    torch.testing.assert_close(loss.get_activation(logits), logits.softmax(1))
    # The loss itself is the same in evaluation; only the scores change.
    assert torch.equal(loss.eval()(logits, labels), value)


def test_tau_zero_is_the_softmax_and_needs_no_frequencies():
    loss = LogitAdjustedSoftmaxLoss(2, tau=0.0).eval()
    logits = torch.randn(4, 3)
    torch.testing.assert_close(loss.get_activation(logits), logits.softmax(1))


def test_rare_categories_win_where_the_classifier_hesitates():
    logits = torch.tensor([[0.1, 0.0, 0.0]])
    assert make_loss([0.5, 0.001], tau=0.0).get_activation(logits)[:, :2].argmax() == 0
    assert make_loss([0.5, 0.001]).get_activation(logits)[:, :2].argmax() == 1


def test_a_category_that_never_occurs_counts_as_the_rarest():
    loss = make_loss(torch.tensor([0.5, 0.001, 0.0], dtype=torch.float64))
    assert loss.adjustment().tolist() == pytest.approx(
        [math.log(0.5), math.log(0.001), math.log(0.001)]
    )


def test_wrong_use_is_one_sentence():
    with pytest.raises(UserError, match="tau is inf"):
        LogitAdjustedSoftmaxLoss(3, tau=math.inf)
    with pytest.raises(UserError, match="all class frequencies are 0"):
        make_loss(torch.zeros(3)).get_activation(torch.zeros(1, 4))
