"""Time and memory of testing an image: Mask R-CNN with the parts of this package and MMDetection's.

Mask R-CNN R50-FPN of configs/_base_/models with class-specific boxes and masks, from an image of
480 x 640 pixels, scaled to 800 x 1,067, to 300 boxes and masks as RLE, which a metric keeps. The
weights are random but for two things: scores are spread like those of a trained detector, which
gives a proposal a few dozen categories above the threshold of 1e-4, or of an untrained one, where
nearly all categories are; and masks fill their boxes, since the masks of noise have far more runs
than those of objects.
"""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from side_by_side import LVIS_CATEGORIES, Comparison, Target, Workload, compare

import mmdet_eql  # noqa: F401 (registers its parts)

PART = "test step"
MODEL_CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "_base_" / "models"
NAMES = {"ours": "mask-rcnn_r50_fpn_lvis-scale.py", "mmdet": "mask-rcnn_r50_fpn.py"}
#: Standard deviation of the logits. Softmax over 1,230 categories then gives 7 %, or all, of the
#: candidates a score above 1e-4.
SPREAD = {"trained": 4.0, "untrained": 0.1}
NUM_PROPOSALS = 1000
NUM_DETECTIONS = 300
ORIGINAL_SIZE = (480, 640)


def measure(quick: bool) -> list[Comparison]:
    """Compare the whole test step, with the scores of a trained and of an untrained detector."""
    num_proposals = 200 if quick else NUM_PROPOSALS
    size = (400, 533) if quick else (800, 1067)
    comparisons = []
    for scores in ("trained",) if quick else SPREAD:
        workloads = {
            name: make_test_step(name, LVIS_CATEGORIES, num_proposals, size, scores)
            for name in NAMES
        }
        comparisons += compare(
            PART,
            f"Mask R-CNN R50, {size[0]} x {size[1]} px, {num_proposals:,} proposals, "
            f"{LVIS_CATEGORIES:,} categories, {NUM_DETECTIONS} detections, {scores}",
            workloads["ours"],
            {"mmdet": workloads["mmdet"]},
            {"mmdet": Target(ratio=3.0)},
            repeats=2 if quick else 5,
        )
    return comparisons


def make_test_step(
    name: str, num_classes: int, num_proposals: int, size: tuple[int, int], scores: str
) -> Workload:
    """From an image to boxes and RLEs."""
    model = make_model(name, num_classes, num_proposals)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
    scale_factor = (size[1] / ORIGINAL_SIZE[1], size[0] / ORIGINAL_SIZE[0])
    metainfo = dict(img_id=0, img_shape=size, ori_shape=ORIGINAL_SIZE, scale_factor=scale_factor)

    def step() -> tuple[torch.Tensor, list[dict]]:
        batch = dict(inputs=[image], data_samples=[DetDataSample(metainfo=metainfo)])
        with torch.no_grad():
            (sample,) = model.test_step(batch)
        found = sample.pred_instances
        as_rle = isinstance(found.masks, list)
        masks = found.masks if as_rle else encode_mask_results(found.masks.numpy())
        return torch.cat([found.bboxes, found.scores[:, None]], dim=1), masks

    _spread_scores(model, step, SPREAD[scores])
    return step


def make_model(name: str, num_classes: int, num_proposals: int) -> torch.nn.Module:
    """The model of a config, with random weights that depend on nothing else."""
    init_default_scope("mmdet")
    config = Config.fromfile(MODEL_CONFIGS / NAMES[name]).model
    config.backbone.init_cfg = None
    config.roi_head.bbox_head.num_classes = num_classes
    config.roi_head.mask_head.update(num_classes=num_classes, class_agnostic=False)
    config.test_cfg.rpn.max_per_img = num_proposals
    config.test_cfg.rcnn.max_per_img = NUM_DETECTIONS
    MMLogger.get_current_instance().setLevel("WARNING")  # each initialised weight is a message
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    logits = model.roi_head.mask_head.conv_logits
    torch.nn.init.zeros_(logits.weight)
    torch.nn.init.ones_(logits.bias)
    return model.eval()


def _spread_scores(model: torch.nn.Module, step: Workload, spread: float) -> None:
    """Give the logits of the proposals of an image a standard deviation."""

    def scale_up(classifier: torch.nn.Linear, _: tuple, logits: torch.Tensor) -> torch.Tensor:
        scale = spread / logits.std()
        classifier.weight.data *= scale
        return logits * scale  # the bias is zero

    with model.roi_head.bbox_head.fc_cls.register_forward_hook(scale_up):
        step()
