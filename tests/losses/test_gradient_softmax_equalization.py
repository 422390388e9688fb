"""Gradient-driven softmax EQL against its equation and a naive simulation of its sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

import mmdet_eql.classification  # noqa: F401
from mmdet_eql.losses import GradientSoftmaxEqualizationLoss, connect_losses
from mmdet_eql.utils.errors import UserError
from tests.losses.test_loss_contract import check_checkpoint_in_the_middle


class Simulation:
    """The method in NumPy, by loops: margins for each pair, and the gradients that are summed."""

    def __init__(self, num_classes, tau=1.0):
        self.m, self.tau = np.zeros(num_classes), tau

    def step(self, z, labels):
        """The mean loss and its gradient."""
        loss, gradient = 0.0, np.zeros_like(z)
        m = np.maximum(self.m, 1e-4)
        for r, label in enumerate(labels):
            shifted = [x + self.tau * np.log(m[j] / m[label]) for j, x in enumerate(z[r])]
            p = np.exp(shifted) / np.exp(shifted).sum()
            loss -= np.log(p[label]) / len(z)
            gradient[r] = (p - np.eye(len(p))[label]) / len(z)
        for r, label in enumerate(labels):
            self.m[label] += abs(gradient[r, label])
        return loss, gradient


def batch(seed, num_rows, num_classes, scale=2.0):
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, num_classes + 1) ** 2
    labels = rng.choice(num_classes, size=num_rows, p=share / share.sum())
    return rng.normal(scale=scale, size=(num_rows, num_classes)), labels


@settings(max_examples=30, deadline=None)
@given(
    num_rows=st.integers(1, 6),
    num_classes=st.integers(1, 5),
    scale=st.sampled_from([0.1, 2, 8]),
    tau=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_gradient_and_sums_equal_the_simulation(num_rows, num_classes, scale, tau, seed):
    loss = GradientSoftmaxEqualizationLoss(num_classes, tau=tau)
    simulation = Simulation(num_classes, tau)
    for step in range(3):
        z, labels = batch((seed, step), num_rows, num_classes, scale)
        logits = torch.tensor(z, requires_grad=True)
        value = loss(logits, torch.as_tensor(labels))
        value.backward()
        expected, gradient = simulation.step(z, labels)
        np.testing.assert_allclose(value.item(), expected, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(loss.pos_grad.numpy(), simulation.m, rtol=1e-7, atol=1e-12)


def test_fifty_steps_give_the_rare_their_margin():
    loss, simulation = GradientSoftmaxEqualizationLoss(5), Simulation(5)
    for seed in range(50):
        z, labels = batch(seed, 16, 5)
        value = loss(torch.tensor(z, requires_grad=True), torch.as_tensor(labels))
        np.testing.assert_allclose(value.item(), simulation.step(z, labels)[0], rtol=1e-9)
    np.testing.assert_allclose(loss.pos_grad.numpy(), simulation.m, rtol=1e-9)
    # Positive and negative gradients of a batch are of the same size in a softmax.
    torch.testing.assert_close(loss.pos_grad.sum(), loss.neg_grad.sum())
    # The same logits: a rare label costs more than a frequent one, by their ratio.
    own = loss.eval()(torch.zeros(5, 5).double(), torch.arange(5), reduction_override="none")
    ratio = loss.pos_grad[0] / loss.pos_grad[4]
    assert ratio > 5
    torch.testing.assert_close(own[4] - own[0], ratio.log())


def test_a_checkpoint_in_the_middle_changes_nothing_and_evaluation_adds_nothing():
    def step(loss, seed):
        z, labels = batch(seed, 16, 5)
        return loss(torch.tensor(z, requires_grad=True), torch.as_tensor(labels)).item()

    loss, resumed = GradientSoftmaxEqualizationLoss(5), GradientSoftmaxEqualizationLoss()
    check_checkpoint_in_the_middle(loss, resumed, step)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_low_precision_and_extreme_logits_are_finite(dtype, scale):
    loss = GradientSoftmaxEqualizationLoss(5)
    for seed in range(3):
        z, labels = batch(seed, 16, 5, scale)
        logits = torch.tensor(z, dtype=dtype, requires_grad=True)
        value = loss(logits, torch.as_tensor(labels))
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()
        assert torch.isfinite(loss.pos_grad).all()


def test_an_image_classifier_trains_and_scores_with_it():
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type="ClassificationHead",
            in_channels=4,
            num_classes=3,
            loss_cls=dict(type="GradientSoftmaxEqualizationLoss"),
        )
    )
    head.init_weights()
    logits = head(torch.randn(6, 4, 2, 2))
    losses = head.loss(logits, torch.tensor([0, 0, 0, 1, 1, 2]))
    losses["loss_cls"].backward()
    assert head.classifier.weight.grad.any()
    positive = head.state_dict()["loss_cls.pos_grad"]
    assert positive[0] > positive[1] > positive[2] > 0
    torch.testing.assert_close(head.scores(logits), logits.softmax(dim=1))


def test_a_box_head_is_refused():
    """It has background proposals; images have none."""
    cfg = dict(type="Shared2FCBBoxHead", num_classes=3, in_channels=4, fc_out_channels=8)
    head = MODELS.build(
        ConfigDict(cfg, roi_feat_size=1, loss_cls=dict(type="GradientSoftmaxEqualizationLoss"))
    )
    with pytest.raises(UserError, match="no output for background") as error:
        connect_losses(head)
    assert "\n" not in str(error.value)


def test_wrong_use_is_one_sentence():
    with pytest.raises(UserError, match="tau is -1"):
        GradientSoftmaxEqualizationLoss(tau=-1)
