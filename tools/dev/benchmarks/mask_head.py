"""Time and memory of a class-specific mask head, forward, loss and backward.

SelectiveFCNMaskHead beside MMDetection's FCNMaskHead, once with a mask of every category, which has
the same result, and once class-agnostic, which has the same cost. The heads are those of Mask R-CNN
R50-FPN: four convolutions of 256 channels at 14x14 cells, masks of 28x28.
"""

from types import SimpleNamespace

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from side_by_side import LVIS_CATEGORIES, Comparison, Point, Target, Workload, compare, growth

import mmdet_eql  # noqa: F401 (registers its parts)

PART = "mask head"
#: Foreground RoIs of an image: a quarter of 512 sampled proposals.
NUM_ROIS = 128
HEADS = {
    "ours": dict(type="SelectiveFCNMaskHead"),
    "class-specific": dict(type="FCNMaskHead"),
    "class-agnostic": dict(type="FCNMaskHead", class_agnostic=True),
}


def measure(quick: bool) -> list[Comparison]:
    """Compare the head with MMDetection's, class-specific and class-agnostic."""
    num_rois = 16 if quick else NUM_ROIS
    workloads = {name: make_step(name, LVIS_CATEGORIES, num_rois) for name in HEADS}
    return compare(
        PART,
        f"{num_rois} RoIs, {LVIS_CATEGORIES:,} categories, forward + loss + backward",
        workloads.pop("ours"),
        workloads,
        {
            "class-specific": Target(ratio=1.5, memory_ratio=2.0),
            # At most 15 % more than a head that knows no categories.
            "class-agnostic": Target(ratio=1 / 1.15, memory_ratio=1 / 1.15),
        },
        repeats=3 if quick else 5,
    )


def measure_growth(quick: bool) -> list[Point]:
    """Time for several numbers of categories, 8 RoIs."""

    return growth(
        PART, lambda *sizes: make_step(*sizes, num_rois=8), HEADS, repeats=3 if quick else 7
    )


def make_step(name: str, num_classes: int, num_rois: int) -> Workload:
    """Loss and gradients of a head, from features of RoIs on."""
    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # each initialised weight is a message
    torch.manual_seed(0)
    head = MODELS.build(dict(num_classes=num_classes, **HEADS[name]))
    head.init_weights()
    features = torch.randn(num_rois, 256, 14, 14, requires_grad=True)
    samples, objects = make_ground_truth(num_rois, num_classes)
    inputs = [features, *head.parameters()]

    def step() -> None:
        losses = head.loss_and_target(head(features), samples, objects, ConfigDict(mask_size=28))
        torch.autograd.grad(losses["loss_mask"]["loss_mask"].sum(), inputs)

    return step


def make_ground_truth(num_rois: int, num_classes: int) -> tuple[list, list[InstanceData]]:
    """Sampled RoIs of an image, and its objects."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 150, (num_rois, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 90, (num_rois, 2))], axis=1)
    sample = SimpleNamespace(
        pos_priors=torch.from_numpy(boxes).float(),
        pos_assigned_gt_inds=torch.from_numpy(rng.integers(0, 12, num_rois)),
        pos_gt_labels=torch.from_numpy(rng.integers(0, num_classes, num_rois)),
    )
    bitmaps = BitmapMasks(rng.integers(0, 2, (12, 240, 240), dtype=np.uint8), 240, 240)
    return [sample], [InstanceData(masks=bitmaps)]
