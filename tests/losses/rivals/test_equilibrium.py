"""EquilibriumLoss against its equation, and its mean scores against a simulation."""

import math

import numpy as np
import pytest
import torch

from mmdet_eql.losses import EquilibriumLoss
from mmdet_eql.utils.errors import UserError
from tests.losses.rivals.naive import cases, check, few, random_case


class Simulation:
    """The method by loops, in float64."""

    def __init__(self, num_classes):
        self.scores = [0.01] * (num_classes + 1)

    def loss(self, z, labels):
        total = 0.0
        for row, label in zip(z, labels, strict=True):
            terms = [s * math.exp(x) for s, x in zip(self.scores, row, strict=True)]
            total -= math.log(terms[label] / sum(terms))
        return total

    def move(self, z, labels):
        for j in range(len(self.scores) - 1):
            own = [
                math.exp(row[j]) / sum(map(math.exp, row))
                for row, label in zip(z, labels, strict=True)
                if label == j
            ]
            if own:
                self.scores[j] = 0.9 * self.scores[j] + 0.1 * sum(own) / len(own)


@few
@cases
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    cls_score, labels, frequency = random_case(num_rows, num_classes, num_classes + 1, scale, seed)
    loss, simulation = EquilibriumLoss(num_classes), Simulation(num_classes)
    simulation.scores[:-1] = frequency
    loss.mean_score.copy_(torch.as_tensor(frequency))
    check(loss, cls_score, labels, lambda z: simulation.loss(z, labels))


def test_fifty_steps_equal_the_simulation():
    loss, simulation = EquilibriumLoss(4), Simulation(4)
    for seed in range(50):
        cls_score, labels, _ = random_case(12, 4, 5, 2, seed)
        value = loss(torch.tensor(cls_score, requires_grad=True), torch.as_tensor(labels))
        np.testing.assert_allclose(value.item(), simulation.loss(cls_score, labels) / 12, rtol=1e-9)
        simulation.move(cls_score, labels)
        np.testing.assert_allclose(loss.mean_score.numpy(), simulation.scores[:-1], rtol=1e-9)
    assert loss.mean_score.min() > 0.1  # they did move


def test_deferred_scores_move_once_an_iteration():
    """Two calls of one iteration, as of two small batches, are one step by their common mean."""
    cls_score, labels, _ = random_case(12, 4, 5, 2, 0)
    logits, labels = torch.tensor(cls_score, requires_grad=True), torch.as_tensor(labels)
    at_once, deferred = EquilibriumLoss(4), EquilibriumLoss(4)
    deferred.defer()
    for rows in (slice(5), slice(5, 12)):
        deferred(logits[rows], labels[rows])
        assert (deferred.mean_score == 0.01).all()
    deferred.add_deferred()
    at_once(logits, labels)
    torch.testing.assert_close(deferred.mean_score, at_once.mean_score)
    assert deferred.num_seen == 12
    deferred.add_deferred()  # nothing was seen
    torch.testing.assert_close(deferred.mean_score, at_once.mean_score)


def test_wrong_use_is_one_sentence():
    with pytest.raises(UserError, match="momentum is 2"):
        EquilibriumLoss(momentum=2)
