"""The losses of a dense head, forward and backward on its anchors, beside focal loss and sigmoid
cross-entropy in PyTorch."""

import torch
import torch.nn.functional as F
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from side_by_side import LVIS_CATEGORIES, Comparison, Target, Workload, compare
from torch import Tensor

import mmdet_eql.losses  # noqa: F401

PART = "dense losses"
FOCAL, CROSS_ENTROPY = "focal loss in PyTorch", "sigmoid cross-entropy in PyTorch"
#: The rival of each loss. EFL was to take at most 1.3 times its time and 1.2 times its memory.
TARGETS = {
    "EqualizedFocalLoss": (FOCAL, Target(ratio=1 / 1.3, memory_ratio=1 / 1.2)),
    "SigmoidFocalLoss": (FOCAL, Target(ratio=1)),
    "EqualizationLoss": (CROSS_ENTROPY, Target(ratio=1, memory_ratio=1)),
    "EqualizationLossV2": (CROSS_ENTROPY, Target(ratio=1, memory_ratio=1)),
}


def measure(quick: bool) -> list[Comparison]:
    """Compare each loss to its rival."""
    rows = 1_000 if quick else 10_000
    comparisons = []
    rivals = {FOCAL: stock_focal_loss, CROSS_ENTROPY: cross_entropy}
    for kind, (rival, target) in TARGETS.items():
        loss = MODELS.build(dict(type=kind, num_classes=LVIS_CATEGORIES, use_sigmoid=True))
        if hasattr(loss, "set_class_frequency"):
            loss.set_class_frequency(torch.linspace(0, 0.01, LVIS_CATEGORIES))
        comparisons += compare(
            PART,
            f"{kind}, {rows:,} anchors, {LVIS_CATEGORIES:,} categories, forward + backward",
            step_of(loss, rows),
            {rival: step_of(rivals[rival], rows)},
            {rival: target},
            repeats=3 if quick else 5,
        )
    return comparisons


def stock_focal_loss(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """MMDetection's, which takes one-hot targets and runs without a GPU."""
    targets = F.one_hot(labels, LVIS_CATEGORIES + 1)[:, :-1]
    return py_sigmoid_focal_loss(logits, targets, weight, avg_factor=avg_factor)


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """With targets in the type of the logits, as short as it can be written."""
    targets = torch.zeros(len(labels), LVIS_CATEGORIES + 1)
    targets = targets.scatter_(1, labels[:, None], 1.0)[:, :-1]
    return F.binary_cross_entropy_with_logits(
        logits, targets, weight[:, None], reduction="sum"
    ).div(avg_factor)


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
