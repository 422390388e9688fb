"""The losses of a dense head, forward and backward on its anchors, beside focal loss in PyTorch."""

import torch
import torch.nn.functional as F
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from side_by_side import LVIS_CATEGORIES, Comparison, Target, Workload, compare
from torch import Tensor

import mmdet_eql.losses  # noqa: F401

PART = "dense losses"
#: EFL was meant to take at most 1.3 times the time and 1.2 times the memory.
TARGETS = {
    "EqualizedFocalLoss": Target(ratio=1 / 1.3, memory_ratio=1 / 1.2),
    "SigmoidFocalLoss": Target(ratio=1),
    "EqualizationLoss": Target(ratio=1),
    "EqualizationLossV2": Target(ratio=1),
}


def measure(quick: bool) -> list[Comparison]:
    """Compare each loss to MMDetection's focal loss in PyTorch, which runs without a GPU."""
    rows = 1_000 if quick else 10_000
    comparisons = []
    for kind, target in TARGETS.items():
        loss = MODELS.build(dict(type=kind, num_classes=LVIS_CATEGORIES, use_sigmoid=True))
        if hasattr(loss, "set_class_frequency"):
            loss.set_class_frequency(torch.linspace(0, 0.01, LVIS_CATEGORIES))
        comparisons += compare(
            PART,
            f"{kind}, {rows:,} anchors, {LVIS_CATEGORIES:,} categories, forward + backward",
            step_of(loss, rows),
            {"focal loss in PyTorch": step_of(stock_focal_loss, rows)},
            {"focal loss in PyTorch": target},
            repeats=3 if quick else 5,
        )
    return comparisons


def stock_focal_loss(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """MMDetection's, which takes one-hot targets."""
    targets = F.one_hot(labels, LVIS_CATEGORIES + 1)[:, :-1]
    return py_sigmoid_focal_loss(logits, targets, weight, avg_factor=avg_factor)


def step_of(loss, rows: int) -> Workload:
    """A forward and backward pass on anchors of which one in fifty is an object."""
    torch.manual_seed(0)
    logits = (torch.randn(rows, LVIS_CATEGORIES) - 4).requires_grad_()
    labels = torch.randint(LVIS_CATEGORIES, (rows,))
    labels[torch.arange(rows) % 50 > 0] = LVIS_CATEGORIES
    weight = torch.ones(rows)

    def step() -> None:
        logits.grad = None
        loss(logits, labels, weight, avg_factor=rows / 50).backward()

    return step
