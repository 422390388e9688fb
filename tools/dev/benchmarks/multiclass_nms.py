"""Time and memory of NMS of each category, from boxes and scores of all proposals on.

    python tools/dev/benchmarks/multiclass_nms.py        # 1,000 proposals, 1,230 categories
    python tools/dev/benchmarks/multiclass_nms.py --num-classes 80 --score-thr 0.05
    python tools/dev/benchmarks/multiclass_nms.py --quick

mmdet_eql.heads.multiclass_nms beside MMDetection's function, with the boxes of class-agnostic
and of class-specific regression. Scores are those of an untrained and of a trained detector: noise,
or 30 objects, each with proposals around it and a few categories that are likely.
"""

import argparse

import torch
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
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

from mmdet_eql.heads import multiclass_nms

PART = "multiclass NMS"
NUM_PROPOSALS = 1000
NUM_OBJECTS = 30
IMAGE_SIZE = (1333, 800)
NAMES = {"ours": multiclass_nms, "mmdet": stock_multiclass_nms}


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__, quick="200 proposals, fewer turns")
    parser.add_argument("--proposals", type=positive, default=NUM_PROPOSALS, help="default: 1,000")
    parser.add_argument("--score-thr", type=float, default=1e-4, help="default: %(default)s")
    parser.add_argument("--max-per-img", type=positive, default=300, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    set_threads(1)
    sizes = dict(score_thr=args.score_thr, max_num=args.max_per_img)
    num_proposals = min(args.proposals, 200) if args.quick else args.proposals
    comparisons = []
    for trained in (False, True):
        for class_specific in (False, True):
            comparisons += compare_at(
                args.quick, args.num_classes, num_proposals, trained, class_specific, **sizes
            )
    print(table(comparisons))


def measure(quick: bool) -> list[Comparison]:
    """Compare with MMDetection's function at the sizes of LVIS, and of COCO with its threshold."""
    num_proposals = 200 if quick else NUM_PROPOSALS
    comparisons = []
    for trained in (False, True):
        comparisons += compare_at(quick, LVIS_CATEGORIES, num_proposals, trained)
    return comparisons + compare_at(
        quick, 80, num_proposals, trained=True, score_thr=0.05, max_num=100
    )


def compare_at(
    quick: bool,
    num_classes: int,
    num_proposals: int,
    trained: bool,
    class_specific: bool = True,
    score_thr: float = 1e-4,
    max_num: int = 300,
) -> list[Comparison]:
    """Compare at one size."""
    workloads = {
        name: make_workload(
            name, num_classes, num_proposals, trained, class_specific, score_thr, max_num
        )
        for name in NAMES
    }
    large = num_classes >= LVIS_CATEGORIES and score_thr <= 1e-4
    return compare(
        PART,
        f"{num_proposals:,} proposals, {num_classes:,} categories, scores > {score_thr:g}, "
        f"top {max_num}, {'trained' if trained else 'noise'}"
        + ("" if class_specific else ", class-agnostic boxes"),
        workloads["ours"],
        {"mmdet": workloads["mmdet"]},
        {"mmdet": Target(ratio=20, memory_ratio=5) if large else Target(ratio=1)},
        repeats=3 if quick else 5,
    )


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories, 200 proposals of a trained detector."""

    def maker(name):
        return lambda num_classes: make_workload(name, num_classes, 200, trained=True)

    return growth(PART, {name: maker(name) for name in NAMES}, repeats=3 if quick else 7)


def make_workload(
    name: str,
    num_classes: int,
    num_proposals: int,
    trained: bool,
    class_specific: bool = True,
    score_thr: float = 1e-4,
    max_num: int = 300,
) -> Workload:
    """NMS of one of the functions."""
    boxes, scores = make_predictions(num_classes, num_proposals, trained)
    if class_specific:
        boxes = boxes.repeat(1, num_classes)
    nms_cfg = dict(type="nms", iou_threshold=0.5)
    return lambda: NAMES[name](boxes, scores, score_thr, nms_cfg, max_num)


def make_predictions(
    num_classes: int, num_proposals: int, trained: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (N, 4) of proposals around objects, and sigmoid scores (N, C + 1)."""
    generator = torch.Generator().manual_seed(0)
    limit = torch.tensor(IMAGE_SIZE)
    centres = torch.rand(NUM_OBJECTS, 2, generator=generator) * limit
    sides = 20 + 300 * torch.rand(NUM_OBJECTS, 2, generator=generator)
    of_object = torch.randint(NUM_OBJECTS, (num_proposals,), generator=generator)
    centres, sides = centres[of_object], sides[of_object]
    centres = centres + 0.2 * sides * torch.randn(num_proposals, 2, generator=generator)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    boxes = boxes.clamp(min=0).minimum(limit.repeat(2))
    # PriorLinear starts at a logit of -7; training lowers most of them and raises a few.
    logits = torch.randn(num_proposals, num_classes, generator=generator) - 7
    if trained:
        likely = torch.randint(num_classes, (NUM_OBJECTS, 4), generator=generator)
        logits -= 2
        logits.scatter_add_(1, likely[of_object], torch.full((num_proposals, 4), 7.0))
    return boxes, torch.nn.functional.pad(logits.sigmoid(), (0, 1))


if __name__ == "__main__":
    main()
