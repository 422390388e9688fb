"""Two ranks with half of each batch train as one does with all of it.

A linear classifier is trained in float64 through DistributedDataParallel, as box heads are: each
rank averages over its own proposals and DDP over the ranks. Softmax EQL ignores tail categories at
random; it is compared with gamma = 1, where it ignores them always, since ranks draw numbers of
their own for samples of their own.
"""

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mmdet_eql.losses import (
    EqualizationLoss,
    EqualizationLossV2,
    EqualizedFocalLoss,
    EquilibriumLoss,
    GradientSoftmaxEqualizationLoss,
    SoftmaxEqualizationLoss,
)
from tests.conftest import start_ranks

NUM_CLASSES, ROWS, STEPS = 6, 16, 30
FREQUENCY = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.01, 0.001])
LOSSES = {
    "EQL": (EqualizationLoss, dict(lambda_=0.08)),
    "EQL v2": (EqualizationLossV2, dict()),
    "EFL": (EqualizedFocalLoss, dict()),
    # As ClassFrequencyHook has it; heads as YOLOX's do not call it on a rank without objects.
    "EFL, deferred": (EqualizedFocalLoss, dict()),
    "SEQL": (SoftmaxEqualizationLoss, dict(lambda_=0.08, gamma=1.0)),
    "LOCE": (EquilibriumLoss, dict()),
    # In image classification the label NUM_CLASSES is one more class.
    "gradient softmax EQL": (GradientSoftmaxEqualizationLoss, dict(num_classes=NUM_CLASSES + 1)),
}


def train(name, rank=0, world_size=1):
    """The loss of each step on this rank's rows, and the weights at the end."""
    kind, options = LOSSES[name]
    loss_of = kind(**dict(num_classes=NUM_CLASSES) | options)
    if hasattr(loss_of, "set_class_frequency"):
        loss_of.set_class_frequency(FREQUENCY)
    deferred = name.endswith("deferred")
    if deferred:
        loss_of.defer()
    torch.manual_seed(0)
    model = torch.nn.Linear(8, loss_of.get_cls_channels(loss_of.num_classes), dtype=torch.float64)
    if world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    random = np.random.default_rng(0)
    curve = []
    for step in range(STEPS + 3):
        features = torch.from_numpy(random.normal(size=(ROWS, 8)))
        labels = torch.from_numpy(random.integers(0, NUM_CLASSES + 1, ROWS))
        rows = slice(rank, None, world_size)
        if step >= STEPS and rank == 1:
            # No proposals, background alone, and no proposals once more.
            rows = slice(0, ROWS // 2 if step == STEPS + 1 else 0)
            labels = torch.full_like(labels, NUM_CLASSES)
        features, labels = features[rows], labels[rows]
        if step == STEPS:
            curve_weights = [p.detach().clone() for p in model.parameters()]
        logits = model(features)
        if deferred and len(labels) == 0:
            loss = 0 * logits.sum()
        else:
            loss = loss_of(logits, labels, avg_factor=max(len(labels), 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if deferred:
            loss_of.add_deferred()
        curve.append(loss.item())
    final = [p.detach().clone() for p in model.parameters()]
    return curve, curve_weights, final


def train_rank(rank, folder):
    torch.distributed.init_process_group("gloo")
    runs = {}
    for name in LOSSES:
        curve, weights, final = train(name, rank, 2)
        runs[name] = curve, [w.numpy() for w in weights], [w.numpy() for w in final]
    torch.save(runs, folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(train_rank, folder)
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_curves_are_those_of_one_rank(two_ranks, name):
    curve, weights, _ = train(name)
    of_ranks = np.mean([two_ranks[rank][name][0] for rank in (0, 1)], axis=0)
    np.testing.assert_allclose(of_ranks[:STEPS], curve[:STEPS], rtol=1e-6)
    assert len(set(curve)) > STEPS  # it does train
    for ours, whole in zip(two_ranks[0][name][1], weights, strict=True):
        np.testing.assert_allclose(ours, whole.numpy(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_a_rank_without_proposals_or_foreground_trains_on(two_ranks, name):
    # That both came here says that nobody waited for anybody.
    for one, other in zip(two_ranks[0][name][2], two_ranks[1][name][2], strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
    assert len(two_ranks[1][name][0]) == STEPS + 3
