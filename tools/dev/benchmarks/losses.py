"""The losses, forward and backward, beside focal loss and cross-entropy in PyTorch.

On the 10,000 anchors (quick: 1,000) of a dense head with 1,230 categories, and on the 1,024
proposals of two images with up to the 13,204 categories of V3Det, where the record of gradients is
measured, too. A loss must read each logit and write its gradient, the record read each gradient.
"""

from functools import partial

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
from mmdet_eql.engine.gradient_record_hook import gradient_sums

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
    """Compare each loss to its rival, and EQL and the record over the number of categories."""
    rows, comparisons = 1_000 if quick else 10_000, []
    size = rows, LVIS_CATEGORIES
    options = dict(repeats=3 if quick else 5)
    for kind, (rival, target) in DENSE.items():
        comparisons += compare(
            kind,
            f"{rows:,} anchors, {LVIS_CATEGORIES:,} categories, forward + backward",
            {"ours": step_of(kind, *size), rival: step_of(rival, *size)},
            {rival: target},
            limit=Limit(2 * 4 * rows * LVIS_CATEGORIES),
            **options,
        )
    for number in NUMBERS_OF_CATEGORIES[:: 2 if quick else 1]:
        size, text = (NUM_PROPOSALS, number), f"{NUM_PROPOSALS:,} proposals, {number:,} categories"
        num_bytes, options["size"] = 4 * NUM_PROPOSALS * number, ("categories", number)
        comparisons += compare(
            "EQL",
            f"{text}, forward + backward",
            {"ours": step_of("EqualizationLoss", *size), "softmax": step_of("softmax", *size)},
            limit=Limit(2 * num_bytes),
            **options,
        )
        gradient, labels = torch.randn(*size).to(DEVICE), make_labels(*size)
        comparisons += compare(
            "gradient record",
            text,
            {
                "ours": partial(gradient_sums, gradient, labels, number),
                "copying": partial(torch.empty_like(gradient).copy_, gradient),
            },
            limit=Limit(num_bytes),
            **options,
        )
    return comparisons


def make_labels(rows: int, num_classes: int) -> Tensor:
    """Labels of which one in fifty is an object."""
    labels = torch.randint(num_classes, (rows,))
    labels[torch.arange(rows) % 50 > 0] = num_classes
    return labels.to(DEVICE)


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
    labels, weight = make_labels(rows, num_classes), torch.ones(rows, device=DEVICE)

    def step() -> None:
        logits.grad = None
        loss(logits, labels, weight, avg_factor=rows / 50).backward()

    return step
