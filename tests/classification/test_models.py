"""Backbones, classifiers and losses of plain classifiers, against their equations."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop

from mmdet_eql.classification.backbones import CIFARResNet, ResNet10
from mmdet_eql.classification.hooks import EpochHook
from mmdet_eql.classification.losses import BalancedSoftmaxLoss, LDAMLoss
from mmdet_eql.heads import (
    CosineClassifier,
    LinearClassifier,
    ScaledClassifier,
    TauNormalizedClassifier,
)
from mmdet_eql.utils.errors import UserError

COUNTS = torch.tensor([500, 60, 7, 0])


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_resnet32_is_that_of_the_paper():
    net = CIFARResNet(32)
    # 0.46 million in table 6 of He et al.; by hand, with batch normalisation, without classifier:
    convolutions = 27 * 16 + 9 * (10 * 16**2 + 16 * 32 + 9 * 32**2 + 32 * 64 + 9 * 64**2)
    assert parameters(net) == convolutions + 2 * (11 * 16 + 10 * 32 + 10 * 64)
    assert net(torch.randn(2, 3, 32, 32))[-1].shape == (2, 64, 8, 8)
    # A shortcut takes every second pixel, and puts zeros around the channels.
    x = torch.randn(1, 16, 4, 4)
    short = net.layer2[0].downsample(x)
    assert torch.equal(short[:, 8:24], x[:, :, ::2, ::2])
    assert short.abs().sum() == x[:, :, ::2, ::2].abs().sum()
    with pytest.raises(UserError, match="depth is 31"):
        CIFARResNet(31)


def test_resnet10_has_four_blocks():
    net = ResNet10(out_indices=(3,))
    assert [len(getattr(net, name)) for name in net.res_layers] == [1, 1, 1, 1]
    assert net(torch.randn(1, 3, 64, 64))[-1].shape == (1, 512, 2, 2)


def test_classifiers_follow_their_equations():
    torch.manual_seed(0)
    x = torch.randn(5, 7)
    linear = LinearClassifier(7, 3)
    weight, bias = linear.weight.detach(), linear.bias.detach()

    cosine = CosineClassifier(7, 3, scale=4.0)
    cosine.load_state_dict(linear.state_dict(), strict=False)
    expected = 4 * torch.stack([F.cosine_similarity(x, w[None]) for w in weight], dim=1)
    torch.testing.assert_close(cosine(x), expected)
    with pytest.raises(UserError, match="scale is 0"):
        CosineClassifier(7, 3, scale=0)

    tau = TauNormalizedClassifier(7, 3, tau=0.5)
    tau.load_state_dict(linear.state_dict())
    assert torch.equal(tau(x), linear(x))
    torch.testing.assert_close(tau.eval()(x), x @ weight.T / weight.norm(dim=1).sqrt())
    with pytest.raises(UserError, match="tau is nan"):
        TauNormalizedClassifier(7, 3, tau=math.nan)

    scaled = ScaledClassifier(7, 3)
    assert scaled.load_state_dict(linear.state_dict(), strict=False).missing_keys == ["class_scale"]
    assert torch.equal(scaled(x), linear(x))
    scaled.class_scale.data = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(scaled(x), torch.tensor([1.0, 2.0, 3.0]) * (x @ weight.T + bias))
    assert [name for name, p in scaled.named_parameters() if p.requires_grad] == ["class_scale"]


def balanced_softmax(z, label, tau):
    n = np.maximum(COUNTS.numpy(), 1).astype(float) ** tau
    return -math.log(n[label] * math.exp(z[label]) / sum(n * np.exp(z)))


def ldam(z, label, max_margin, scale):
    margin = np.maximum(COUNTS.numpy(), 1) ** -0.25
    margin = margin / margin.max() * max_margin
    z = z.copy()
    z[label] -= scale * margin[label]
    return -math.log(math.exp(z[label]) / np.exp(z).sum())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), option=st.floats(0, 2))
def test_losses_equal_their_equations(seed, option):
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(6, 4)) * 3, rng.integers(0, 4, 6)
    pairs = [
        (BalancedSoftmaxLoss(4, tau=option), lambda z, y: balanced_softmax(z, y, option)),
        (LDAMLoss(4, max_margin=option, scale=5), lambda z, y: ldam(z, y, option, 5)),
    ]
    for loss, reference in pairs:
        loss.set_class_counts(COUNTS)
        value = loss(torch.tensor(z), torch.tensor(labels), reduction_override="none")
        expected = [reference(row, label) for row, label in zip(z, labels, strict=True)]
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_without_a_shift_or_margin_they_are_cross_entropy():
    torch.manual_seed(0)
    z, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    for loss in (BalancedSoftmaxLoss(4, tau=0), LDAMLoss(4, max_margin=0)):
        loss.set_class_counts(COUNTS)
        torch.testing.assert_close(loss(z, labels), F.cross_entropy(z, labels))


def test_balanced_softmax_is_the_softmax_of_a_balanced_world():
    """Trained on z + log n, z itself is the log-odds for equal priors: the minimiser on data of no
    features is z = 0 for every class, whatever the counts."""
    loss = BalancedSoftmaxLoss(3)
    counts = torch.tensor([900, 90, 10])
    loss.set_class_counts(counts)
    z = torch.zeros(1, 3, requires_grad=True)
    labels = torch.arange(3).repeat_interleave(counts)
    loss(z.expand(len(labels), 3), labels).backward()
    assert z.grad.abs().max() < 1e-6


def test_deferred_reweighting_begins_with_its_epoch():
    loss = LDAMLoss(4, reweight_from=2, beta=0.99, max_margin=0)
    loss.set_class_counts(COUNTS)
    torch.manual_seed(0)
    z, labels = torch.randn(8, 4), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(UserError, match="EpochHook"):
        loss(z, labels)
    plain = F.cross_entropy(z, labels)
    loss.set_epoch(1)
    torch.testing.assert_close(loss(z, labels), plain)
    loss.set_epoch(2)
    # F.cross_entropy divides by the sum of the weights, too.
    weight = (1 - 0.99) / (1 - 0.99 ** COUNTS.clamp(min=1).double())
    torch.testing.assert_close(loss(z, labels), F.cross_entropy(z, labels, weight.float()))
    short, long = (EpochBasedTrainLoop.__new__(EpochBasedTrainLoop) for _ in range(2))
    short._max_epochs, long._max_epochs = 2, 3
    for loop, epochs in ((object(), "no"), (short, "2")):
        with pytest.raises(UserError, match=f"reweight_from is 2, but train_cfg has {epochs} epo"):
            EpochHook().before_train(SimpleNamespace(model=loss, train_loop=loop))
    EpochHook().before_train(SimpleNamespace(model=loss, train_loop=long))
    loss.reweight_from = None
    EpochHook().before_train(SimpleNamespace(model=loss, train_loop=object()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BalancedSoftmaxLoss(tau=math.inf),
        lambda: BalancedSoftmaxLoss(reduction="max"),
        lambda: LDAMLoss(max_margin=-1),
        lambda: LDAMLoss(scale=0),
        lambda: LDAMLoss(beta=1),
        lambda: BalancedSoftmaxLoss(4)(torch.zeros(1, 4), torch.tensor([0])),
        lambda: BalancedSoftmaxLoss(4)(torch.zeros(1, 5), torch.tensor([0])),
    ],
)
def test_wrong_use_is_one_sentence(make):
    with pytest.raises(UserError):
        make()


def head(loss: dict, **kwargs):
    init_default_scope("mmdet")
    cfg = dict(type="ClassificationHead", in_channels=8, num_classes=4, loss_cls=loss, **kwargs)
    return MODELS.build(cfg)


@pytest.mark.parametrize(
    "loss",
    [
        dict(type="CrossEntropyLoss"),
        dict(type="SoftmaxEqualizationLoss", lambda_count=20, has_background=False),
        dict(type="ClassBalancedSoftmaxLoss", has_background=False),
        dict(type="LogitAdjustedSoftmaxLoss", has_background=False),
        dict(type="SigmoidFocalLoss"),
        dict(type="EqualizationLoss"),
        dict(type="BalancedSoftmaxLoss"),
    ],
    ids=lambda loss: loss["type"],
)
def test_a_head_trains_and_scores_with_each_loss(loss):
    module = head(loss)
    module.init_weights()
    for part in module.modules():
        if hasattr(part, "set_class_counts"):
            part.set_class_counts(COUNTS)
        if hasattr(part, "set_class_frequency"):
            part.set_class_frequency(COUNTS / 567)
    logits = module(torch.randn(6, 8, 2, 2))
    losses = module.loss(logits, torch.tensor([0, 1, 2, 3, 0, 1]))
    losses["loss_cls"].backward()
    assert module.classifier.weight.grad.abs().sum() > 0
    scores = module.eval().scores(logits)
    assert scores.shape == (6, 4)
    if loss["type"] != "LogitAdjustedSoftmaxLoss":
        assert torch.equal(scores.argmax(1), logits.argmax(1))


def test_margins_are_those_of_the_cosines():
    for classifier in (None, dict(type="CosineClassifier")):
        with pytest.raises(UserError, match=r"cosines times its scale 30\.0, which .*Cl"):
            head(dict(type="LDAMLoss"), classifier=classifier)
    head(dict(type="LDAMLoss", scale=16), classifier=dict(type="CosineClassifier"))


def test_a_loss_with_a_background_output_is_refused():
    with pytest.raises(UserError, match="wants 5 logits for 4 classes"):
        head(dict(type="ClassBalancedSoftmaxLoss"))
