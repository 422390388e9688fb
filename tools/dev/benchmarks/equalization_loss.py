"""Time and memory of EqualizationLoss, forward and backward.

    python tools/dev/benchmarks/equalization_loss.py                      # 1,024 x 1,230 logits
    python tools/dev/benchmarks/equalization_loss.py --num-classes 5000
    python tools/dev/benchmarks/equalization_loss.py --quick

Beside it: PyTorch's binary cross-entropy over the same tensors with targets that exist already;
the loss as its equation reads, with targets and weights of every proposal and category made anew
in each step, as the official code does; and this package's own loss without its written-out
gradient. A quarter of the proposals are foreground and three quarters of the categories in the
tail, as in LVIS v0.5.
"""

import argparse

import torch
import torch.nn.functional as F
from side_by_side import (
    LVIS_CATEGORIES,
    Comparison,
    Point,
    Target,
    Workload,
    argument_parser,
    compare,
    growth,
    positive,
    set_threads,
    table,
)

from mmdet_eql.losses import EqualizationLoss

PART = "EqualizationLoss"
#: Two images of 512 sampled proposals.
NUM_PROPOSALS = 1024
LAMBDA = 0.74


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__, quick="fewer turns")
    parser.add_argument(
        "--proposals", type=positive, default=NUM_PROPOSALS, help="default: %(default)s"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    set_threads(1)
    print(table(measure(args.quick, args.num_classes, args.proposals)))


def measure(
    quick: bool, num_classes: int = LVIS_CATEGORIES, num_proposals: int = NUM_PROPOSALS
) -> list[Comparison]:
    """Compare the loss with plain cross-entropy and with its equation."""
    workloads = make_workloads(num_classes, num_proposals)
    two_buffers = 2 * 4 * num_classes * num_proposals / 2**20
    return compare(
        PART,
        f"{num_proposals:,} x {num_classes:,}, forward + backward",
        workloads.pop("ours"),
        workloads,
        {
            # At most 5 % slower, and no more than two tensors of logits, but for whole pages.
            "cross-entropy": Target(ratio=1 / 1.05, memory=two_buffers + 0.25),
            "equation": Target(ratio=2.0),
        },
        repeats=7 if quick else 25,
    )


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories."""
    names = ("ours", "cross-entropy", "equation")

    def maker(name):
        return lambda num_classes: make_workloads(num_classes, NUM_PROPOSALS)[name]

    return growth(PART, {name: maker(name) for name in names}, repeats=3 if quick else 9)


def make_workloads(num_classes: int, num_proposals: int) -> dict[str, Workload]:
    """By name, what gives the gradient of a loss."""
    torch.manual_seed(0)
    # About the logits of a trained classifier.
    logits = (2 * torch.randn(num_proposals, num_classes) - 6).requires_grad_()
    labels = torch.randint(num_classes, (num_proposals,))
    labels[num_proposals // 4 :] = num_classes
    frequency = torch.linspace(0, 1, num_classes, dtype=torch.float64)
    tail = (frequency < LAMBDA).float()
    one_hot = F.one_hot(labels, num_classes + 1)[:, :-1].float()
    losses = {
        name: EqualizationLoss(num_classes, LAMBDA, fused=fused)
        for name, fused in {"ours": True, "autograd": False}.items()
    }
    for loss in losses.values():
        loss.set_class_frequency(frequency)

    def gradient(loss):
        return lambda: torch.autograd.grad(loss(), logits)

    return {
        "ours": gradient(lambda: losses["ours"](logits, labels)),
        "cross-entropy": gradient(
            lambda: F.binary_cross_entropy_with_logits(logits, one_hot, reduction="sum")
        ),
        "equation": gradient(lambda: loss_of_the_equation(logits, labels, tail)),
        "ours by autograd": gradient(lambda: losses["autograd"](logits, labels)),
    }


def loss_of_the_equation(logits: torch.Tensor, labels: torch.Tensor, tail: torch.Tensor):
    """EQL, equation 3, term by term, with every term of shape (N, C)."""
    num_proposals, num_classes = logits.shape
    targets = logits.new_zeros(num_proposals, num_classes + 1)
    targets.scatter_(1, labels[:, None], 1)
    targets = targets[:, :num_classes]
    excluded = (labels < num_classes).float()[:, None].expand(num_proposals, num_classes)
    threshold = tail[None].expand(num_proposals, num_classes)
    weights = 1 - excluded * threshold * (1 - targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.sum(losses * weights) / num_proposals


if __name__ == "__main__":
    main()
