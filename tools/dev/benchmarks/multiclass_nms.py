"""Time and memory of NMS of each category, from boxes and scores of all proposals on.

mmdet_eql.heads multiclass_nms beside MMDetection's function, with the boxes of class-specific
regression. Scores are those of an untrained and of a trained detector: noise,
or 30 objects, each with proposals around it and a few categories that are likely.
"""

import torch
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from side_by_side import LVIS_CATEGORIES, Comparison, Point, Target, Workload, compare, growth

from mmdet_eql.heads import multiclass_nms

PART = "multiclass NMS"
NUM_PROPOSALS = 1000
NUM_OBJECTS = 30
IMAGE_SIZE = (1333, 800)
NAMES = {"ours": multiclass_nms, "mmdet": stock_multiclass_nms}


def measure(quick: bool) -> list[Comparison]:
    """Compare with MMDetection's function at the sizes of LVIS, and of COCO with its threshold."""
    num_proposals = 200 if quick else NUM_PROPOSALS
    lvis, coco = dict(score_thr=1e-4, max_num=300), dict(score_thr=0.05, max_num=100)
    goal = Target(ratio=20, memory_ratio=5)
    comparisons = []
    for num_classes, trained, options, target in (
        (LVIS_CATEGORIES, False, lvis, goal),
        (LVIS_CATEGORIES, True, lvis, goal),
        (80, True, coco, Target(ratio=1)),
    ):
        works = {
            name: make_workload(name, num_classes, num_proposals, trained, **options)
            for name in NAMES
        }
        comparisons += compare(
            PART,
            f"{num_proposals:,} proposals, {num_classes:,} categories, scores > "
            f"{options['score_thr']:g}, top {options['max_num']}, "
            + ("trained" if trained else "noise"),
            works["ours"],
            {"mmdet": works["mmdet"]},
            {"mmdet": target},
            repeats=3 if quick else 5,
        )
    return comparisons


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories, 200 proposals of a trained detector."""
    return growth(
        PART,
        lambda *sizes: make_workload(*sizes, 200, trained=True),
        NAMES,
        repeats=3 if quick else 7,
    )


def make_workload(
    name: str,
    num_classes: int,
    num_proposals: int,
    trained: bool,
    score_thr: float = 1e-4,
    max_num: int = 300,
) -> Workload:
    """NMS of one of the functions, with the boxes of class-specific regression."""
    boxes, scores = make_predictions(num_classes, num_proposals, trained)
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
