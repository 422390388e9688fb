"""The losses, forward and backward, beside focal loss and cross-entropy in PyTorch.

On the 10,000 anchors (quick: 1,000) of a dense head with 1,230 categories, and on the 1,024
proposals of two images with up to the 13,204 categories of V3Det. A loss must read each logit and
write its gradient.
"""

import torch
import torch.nn.functional as F
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.registry import MODELS
from side_by_side import (
    DEVICE,
    LVIS_CATEGORIES,
    NUMBERS_OF_CATEGORIES,
    Comparison,
    Limit,
    Workload,
    compare,
)
from torch import Tensor

import mmdet_eql.losses  # noqa: F401 (registers them)

NUM_PROPOSALS = 1024


def stock_focal_loss(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """MMDetection's, which takes one-hot targets and runs without a GPU."""
    targets = F.one_hot(labels, logits.shape[1] + 1)[:, :-1]
    return py_sigmoid_focal_loss(logits, targets, weight, avg_factor=avg_factor)


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """With targets in the type of the logits, as short as it can be written."""
    targets = logits.new_zeros(len(labels), logits.shape[1] + 1)
    targets = targets.scatter_(1, labels[:, None], 1.0)[:, :-1]
    return F.binary_cross_entropy_with_logits(
        logits, targets, weight[:, None], reduction="sum"
    ).div(avg_factor)


def softmax(logits: Tensor, labels: Tensor, weight: Tensor, avg_factor: float) -> Tensor:
    """Softmax cross-entropy, whose last logit stands for the background here."""
    losses = F.cross_entropy(logits, labels.clamp(max=logits.shape[1] - 1), reduction="none")
    return (losses * weight).sum() / avg_factor


FOCAL, SIGMOID = "focal loss in PyTorch", "sigmoid cross-entropy in PyTorch"
RIVALS = {FOCAL: stock_focal_loss, SIGMOID: cross_entropy, "softmax": softmax}
#: The rival of each loss. EFL was to take at most 1.3 times its time.
DENSE = {
    "EqualizedFocalLoss": (FOCAL, 1 / 1.3),
    "SigmoidFocalLoss": (FOCAL, 1),
    "EqualizationLoss": (SIGMOID, 1),
    "EqualizationLossV2": (SIGMOID, 1),
}


def measure(quick: bool) -> list[Comparison]:
    """Compare each loss to its rival, and EQL over the number of categories."""
    rows, comparisons = 1_000 if quick else 10_000, []
    size, repeats = (rows, LVIS_CATEGORIES), 3 if quick else 5
    for kind, (rival, target) in DENSE.items():
        comparisons += compare(
            kind,
            f"{rows:,} anchors, {LVIS_CATEGORIES:,} categories, forward + backward",
            {"ours": step_of(kind, *size), rival: step_of(rival, *size)},
            {rival: target},
            repeats,
            limit=Limit(2 * 4 * rows * LVIS_CATEGORIES),
        )
    for number in NUMBERS_OF_CATEGORIES[:: 2 if quick else 1]:
        size = NUM_PROPOSALS, number
        comparisons += compare(
            "EQL",
            f"{NUM_PROPOSALS:,} proposals, {number:,} categories, forward + backward",
            {"ours": step_of("EqualizationLoss", *size), "softmax": step_of("softmax", *size)},
            repeats=repeats,
            limit=Limit(2 * 4 * NUM_PROPOSALS * number),
            size=("categories", number),
        )
    return comparisons


def step_of(kind: str, rows: int, num_classes: int) -> Workload:
    """A forward and backward pass of a registered loss or of a rival."""
    torch.manual_seed(0)
    loss = RIVALS.get(kind) or MODELS.build(
        dict(type=kind, num_classes=num_classes, use_sigmoid=True)
    )
    if hasattr(loss, "set_class_frequency"):
        loss.set_class_frequency(torch.linspace(0, 0.01, num_classes))
    if isinstance(loss, torch.nn.Module):
        loss.to(DEVICE)
    logits = (torch.randn(rows, num_classes) - 4).to(DEVICE).requires_grad_()
    labels = torch.randint(num_classes, (rows,), device=DEVICE)
    labels[torch.arange(rows) % 50 > 0] = num_classes  # one in fifty is an object
    weight = torch.ones(rows, device=DEVICE)

    def step() -> None:
        logits.grad = None
        loss(logits, labels, weight, avg_factor=rows / 50).backward()

    return step
