"""GumbelOptimizedLoss against its equation, and how its classifier starts."""

import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmdet_eql.losses import DropLoss, GumbelOptimizedLoss, connect_losses
from mmdet_eql.utils.errors import UserError
from tests.losses.rivals.naive import cases, check, few, random_case


@few
@cases
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    cls_score, labels, _ = random_case(num_rows, num_classes, num_classes, scale, seed)

    def equation(z):
        total = 0.0
        for r, label in enumerate(labels):
            for j in range(num_classes):
                minus_log_p = math.exp(-min(max(z[r, j], -4), 10))
                negative = -math.log(-math.expm1(-minus_log_p))
                total += minus_log_p if label == j else negative
        return total

    check(GumbelOptimizedLoss(num_classes, lambda_=0), cls_score, labels, equation)


def test_it_is_the_cross_entropy_of_its_scores():
    torch.manual_seed(0)
    loss = GumbelOptimizedLoss(4, lambda_=0)
    logits, labels = torch.randn(8, 4, dtype=torch.float64), torch.randint(5, (8,))
    scores = loss.get_activation(logits)[:, :4]
    targets = torch.nn.functional.one_hot(labels, 5)[:, :4].double()
    expected = torch.nn.functional.binary_cross_entropy(scores, targets, reduction="sum") / 8
    torch.testing.assert_close(loss(logits, labels), expected)


def test_its_weights_are_those_of_drop_loss():
    losses = GumbelOptimizedLoss(4, lambda_=0.1), DropLoss(4, lambda_=0.1)
    zeros = []
    for loss in losses:
        loss.set_class_frequency(torch.tensor([0.5, 0.3, 0.01, 0.001]))
        logits = torch.zeros(40, 4, requires_grad=True)
        torch.manual_seed(1)
        loss(logits, torch.arange(40) % 5).backward()
        zeros.append(logits.grad == 0)
    assert zeros[0].any()
    assert torch.equal(*zeros)


def box_head(loss: str, **predictor):
    cfg = dict(type="Shared2FCBBoxHead", num_classes=3, in_channels=4, fc_out_channels=8)
    cfg |= dict(roi_feat_size=1, loss_cls=dict(type=loss), cls_predictor_cfg=predictor)
    return MODELS.build(ConfigDict(cfg))


def test_prior_linear_starts_it_at_its_probability():
    head = box_head("GumbelOptimizedLoss", type="PriorLinear", activation="gumbel")
    head.init_weights()
    connect_losses(head)
    scores = head.loss_cls.get_activation(head.fc_cls.bias[None].detach())[0, :3]
    np.testing.assert_allclose(scores, 0.001, rtol=1e-5)
    connect_losses(box_head("GumbelOptimizedLoss", type="Linear"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: connect_losses(box_head("GumbelOptimizedLoss", type="PriorLinear")),
         ["GumbelOptimizedLoss", "starts sigmoids", "activation='gumbel'"]),
        (lambda: connect_losses(
            box_head("EqualizationLoss", type="PriorLinear", activation="gumbel")),
         ["EqualizationLoss", "starts gumbels", "activation='sigmoid'"]),
        (lambda: box_head("DropLoss", type="PriorLinear", activation="relu"), ["'relu'", "gumbel"]),
    ],
)  # fmt: skip
def test_another_start_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
