"""EFL and EQFL against their equations by autograd in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.losses.gfocal_loss import quality_focal_loss

from mmdet_eql.losses import EqualizedFocalLoss, EqualizedQualityFocalLoss
from mmdet_eql.utils.errors import UserError


def equation(logits, labels, quality, gamma, base=2.0, alpha=0.25):
    """The losses (N, C), for autograd; without qualities those of EFL."""
    p = logits.sigmoid()
    y = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits)
    if quality is None:
        q = torch.where(y > 0, p, 1 - p)
        alpha_of = alpha * y + (1 - alpha) * (1 - y)
        return -alpha_of * gamma / base * (1 - q) ** gamma * q.log()
    target = y * quality[:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return gamma / base * (target - p).abs() ** gamma * entropy


class Simulation:
    """The authors' rules: the gradient by autograd, its sums, and gamma_j from them."""

    def __init__(self, num_classes, scale_factor=8.0):
        self.pos, self.neg = np.zeros(num_classes), np.zeros(num_classes)
        self.ratio = np.ones(num_classes)
        self.scale_factor = scale_factor

    def step(self, logits, labels, quality, weight):
        gamma = torch.from_numpy(2.0 + self.scale_factor * (1 - self.ratio))
        logits = logits.clone().requires_grad_()
        losses = (equation(logits, labels, quality, gamma) * weight[:, None]).sum()
        losses.backward()
        for r, label in enumerate(labels.tolist()):
            for j in range(logits.shape[1]):
                sums = self.pos if j == label else self.neg
                sums[j] += logits.grad[r, j].abs().item()
        self.ratio = np.clip(self.pos / (self.neg + 1e-10), 0, 1)
        return losses.item(), logits.grad


def make_case(num_rows, num_classes, scale, seed, with_quality):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_rows, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes + 1, (num_rows,), generator=generator)
    weight = torch.randint(2, (num_rows,), generator=generator).double()
    quality = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    return logits, labels, quality if with_quality else None, weight


def make_loss(num_classes, with_quality, **kwargs):
    kind = EqualizedQualityFocalLoss if with_quality else EqualizedFocalLoss
    return kind(num_classes, reduction="sum", **kwargs)


def targets_of(labels, quality):
    return labels if quality is None else (labels, quality)


both = pytest.mark.parametrize("with_quality", [False, True], ids=["EFL", "EQFL"])


@both
@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 6),
    num_classes=st.integers(1, 5),
    scale=st.sampled_from([0.1, 2, 8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_equation(with_quality, num_rows, num_classes, scale, seed):
    logits, labels, quality, weight = make_case(num_rows, num_classes, scale, seed, with_quality)
    loss = make_loss(num_classes, with_quality)
    loss.pos_grad.copy_(torch.rand(num_classes))
    loss.neg_grad.fill_(0.6)
    loss.num_seen.fill_(1)
    gamma = loss.focusing()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = loss(ours, targets_of(labels, quality), weight)
    value.backward()
    expected = (equation(theirs, labels, quality, gamma) * weight[:, None]).sum()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)


@both
def test_fifty_steps_equal_the_simulation(with_quality):
    loss, simulation = make_loss(4, with_quality), Simulation(4)
    for seed in range(50):
        logits, labels, quality, weight = make_case(16, 4, 2, seed, with_quality)
        logits = (logits - 2).requires_grad_()
        value = loss(logits, targets_of(labels, quality), weight)
        value.backward()
        expected, gradient = simulation.step(logits.detach(), labels, quality, weight)
        np.testing.assert_allclose(value.item(), expected, rtol=1e-9)
        torch.testing.assert_close(logits.grad, gradient, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss.pos_grad.numpy(), simulation.pos, rtol=1e-9)
        np.testing.assert_allclose(loss.neg_grad.numpy(), simulation.neg, rtol=1e-9)
    assert len(set(loss.focusing().tolist())) == 4


def test_without_scale_they_are_focal_loss_and_quality_focal_loss():
    for seed in range(3):
        logits, labels, quality, weight = make_case(12, 5, 3, seed, True)
        one_hot = F.one_hot(labels, 6)[:, :-1]
        expected = py_sigmoid_focal_loss(logits, one_hot, weight, reduction="sum")
        torch.testing.assert_close(
            make_loss(5, False, scale_factor=0.0)(logits, labels, weight), expected
        )
        expected = quality_focal_loss(logits, (labels, quality), weight=weight, reduction="sum")
        torch.testing.assert_close(
            make_loss(5, True, scale_factor=0.0)(logits, (labels, quality), weight), expected
        )


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_low_precision_and_extreme_logits_are_finite(with_quality, dtype, scale):
    loss = make_loss(4, with_quality)
    for seed in range(3):
        logits, labels, quality, weight = make_case(16, 4, scale, seed, with_quality)
        logits = logits.to(dtype).requires_grad_()
        value = loss(logits, targets_of(labels, quality), weight.float())
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert logits.grad.dtype == dtype
        assert torch.isfinite(logits.grad).all()
        assert torch.isfinite(loss.focusing()).all()


def test_one_tensor_of_the_size_of_the_logits_is_kept():
    loss = make_loss(50, False)
    logits = torch.randn(8, 50, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        loss(logits, torch.randint(51, (8,)))
    assert sum(tensor.numel() >= logits.numel() for tensor in kept) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EqualizedFocalLoss(gamma=0), ["gamma", "0", "at least 1"]),
        (lambda: EqualizedFocalLoss(alpha=2), ["alpha", "2"]),
        (lambda: EqualizedFocalLoss(scale_factor=-1), ["scale_factor", "-1"]),
        (lambda: EqualizedFocalLoss(use_sigmoid=False), ["use_sigmoid=True"]),
        (
            lambda: EqualizedQualityFocalLoss(2)(torch.zeros(1, 2), torch.tensor([0])),
            ["no IoU", "GFLHead"],
        ),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
