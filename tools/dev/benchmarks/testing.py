"""Time and memory of testing: NMS of each category, and a whole test step, beside MMDetection's.

NMS takes class-specific boxes and scores of all proposals: noise, as of an untrained detector, or
30 objects, each with proposals around it and a few categories that are likely. The test step is
that of Mask R-CNN R50-FPN of configs/_base_/models with class-specific boxes and masks, from an
image of 480 x 640 pixels, scaled to 800 x 1,067, to 300 boxes and masks as RLE, which a metric
keeps. Its weights are random but for two things: scores are spread like those of a trained
detector, which gives a proposal a few dozen categories above the threshold of 1e-4, or of an
untrained one, where nearly all categories are; and masks fill their boxes, since the masks of noise
have far more runs than those of objects. The rival "its network alone" is the time that backbone,
neck and heads of our model take in the same turns, RoIAlign included, without what makes
proposals, boxes and masks of their output.
"""

from collections.abc import Callable

import torch
from mmdet.models.layers import multiclass_nms as stock_multiclass_nms
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from side_by_side import (
    CONFIGS,
    DEVICE,
    LVIS_CATEGORIES,
    NUMBERS_OF_CATEGORIES,
    Comparison,
    Limit,
    Run,
    Workload,
    build_model,
    clocks,
    compare,
    compare_runs,
    multiplications,
)

from mmdet_eql.heads import multiclass_nms

NMS = {"ours": multiclass_nms, "mmdet": stock_multiclass_nms}
CONFIG = {"ours": "mask-rcnn_r50_fpn_lvis-scale.py", "mmdet": "mask-rcnn_r50_fpn.py"}
#: Standard deviation of the logits. Softmax over 1,230 categories then gives 7 %, or all, of the
#: candidates a score above 1e-4.
SPREAD = {"trained": 4.0, "untrained": 0.1}
NUM_DETECTIONS = 300
ORIGINAL_SIZE = (480, 640)


def measure(quick: bool) -> list[Comparison]:
    """Compare NMS at the sizes of LVIS and of COCO, and the test step at those of LVIS."""
    number, options = 200 if quick else 1000, dict(repeats=1 if quick else 5)
    comparisons = []
    for num_classes, trained, least, target in (
        (LVIS_CATEGORIES, False, 1e-4, 20),
        (LVIS_CATEGORIES, True, 1e-4, 20),
        (80, True, 0.05, 1),
    ):
        comparisons += compare_nms(number, num_classes, trained, least, target, **options)
    # MMDetection's takes half a minute at the last number.
    for num_classes in () if quick else NUMBERS_OF_CATEGORIES[:-1]:
        of_row = dict(size=("categories", num_classes), **options)
        comparisons += compare_nms(200, num_classes, True, 1e-4, None, **of_row)
    size, num_detections = ((160, 224), 50) if quick else ((800, 1067), NUM_DETECTIONS)
    for scores in ("trained",) if quick else SPREAD:
        models = {
            name: make_model(name, LVIS_CATEGORIES, number, num_detections) for name in CONFIG
        }
        steps = {name: make_test_step(model, size, scores) for name, model in models.items()}
        row = (
            "test step",
            f"Mask R-CNN R50, {size[0]} x {size[1]} px, {number:,} proposals, "
            f"{LVIS_CATEGORIES:,} categories, {num_detections} detections, {scores}",
        )
        options["limit"] = Limit(0, multiplications(steps["ours"]))
        comparisons += compare(*row, steps, {"mmdet": 3}, **options)
        works = time_network(models["ours"], steps["ours"])
        targets = {"its network alone": 1 / 1.05}
        comparisons += compare_runs(*row, works, targets, **options)
    return comparisons


def compare_nms(
    number: int, num_classes: int, trained: bool, least: float, target: float | None, **options
) -> list[Comparison]:
    """Compare NMS of a number of proposals and categories; each score has to be read."""
    top = 100 if num_classes == 80 else 300
    works = {name: make_nms(name, num_classes, number, trained, least, top) for name in NMS}
    size = f"{number:,} proposals, {num_classes:,} categories, scores > {least:g}, top {top}, "
    return compare(
        "multiclass NMS",
        size + ("trained" if trained else "noise"),
        works,
        {"mmdet": target},
        limit=Limit(4 * number * num_classes),
        **options,
    )


def make_nms(
    name: str, num_classes: int, number: int, trained: bool, least: float = 1e-4, top: int = 300
) -> Workload:
    """NMS of one of the functions, with the boxes of class-specific regression."""
    generator, num_objects = torch.Generator().manual_seed(0), 30
    limit = torch.tensor([1333, 800])
    centres = torch.rand(num_objects, 2, generator=generator) * limit
    sides = 20 + 300 * torch.rand(num_objects, 2, generator=generator)
    of_object = torch.randint(num_objects, (number,), generator=generator)
    centres, sides = centres[of_object], sides[of_object]
    centres = centres + 0.2 * sides * torch.randn(number, 2, generator=generator)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    boxes = boxes.clamp(min=0).minimum(limit.repeat(2)).repeat(1, num_classes).to(DEVICE)
    # PriorLinear starts at a logit of -7; training lowers most of them and raises a few.
    logits = torch.randn(number, num_classes, generator=generator) - 7
    if trained:
        likely = torch.randint(num_classes, (num_objects, 4), generator=generator)
        logits -= 2
        logits.scatter_add_(1, likely[of_object], torch.full((number, 4), 7.0))
    scores = torch.nn.functional.pad(logits.sigmoid(), (0, 1)).to(DEVICE)
    return lambda: NMS[name](boxes, scores, least, dict(type="nms", iou_threshold=0.5), top)


def make_model(
    name: str, num_classes: int, num_proposals: int, num_detections: int
) -> torch.nn.Module:
    """The model of a config, with random weights that depend on nothing else."""
    config = Config.fromfile(CONFIGS / "_base_" / "models" / CONFIG[name]).model
    config.backbone.init_cfg = None
    config.roi_head.bbox_head.num_classes = num_classes
    config.roi_head.mask_head.update(num_classes=num_classes, class_agnostic=False)
    config.test_cfg.rpn.max_per_img = num_proposals
    config.test_cfg.rcnn.max_per_img = num_detections
    model = build_model(config)
    logits = model.roi_head.mask_head.conv_logits
    torch.nn.init.zeros_(logits.weight)
    torch.nn.init.ones_(logits.bias)
    return model.eval()


def make_test_step(model: torch.nn.Module, size: tuple[int, int], scores: str) -> Workload:
    """From an image to boxes and RLEs, with logits of a standard deviation."""
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
        masks = found.masks if as_rle else encode_mask_results(found.masks.cpu().numpy())
        return torch.cat([found.bboxes, found.scores[:, None]], dim=1), masks

    def scale_up(classifier: torch.nn.Linear, _: tuple, logits: torch.Tensor) -> torch.Tensor:
        scale = SPREAD[scores] / logits.std()
        classifier.weight.data *= scale
        return logits * scale  # the bias is zero

    with model.roi_head.bbox_head.fc_cls.register_forward_hook(scale_up):
        step()
    return step


def time_network(model: torch.nn.Module, step: Workload) -> dict[str, Callable[[], Run]]:
    """Return what runs a step and measures it, and what then gives the time of its network."""
    spent, starts = [], []

    def now() -> torch.Tensor:
        return torch.tensor(clocks(), dtype=torch.float64)

    heads = model.roi_head
    network = (model.backbone, model.neck, model.rpn_head, heads.bbox_roi_extractor)
    for module in (*network, heads.bbox_head, heads.mask_roi_extractor, heads.mask_head):
        module.register_forward_pre_hook(lambda *_: starts.append(now()))
        module.register_forward_hook(lambda *_: spent.append(now() - starts.pop()))

    def run() -> Run:
        spent.clear()
        start = now()
        step()
        return Run(*(now() - start).tolist())

    return {"ours": run, "its network alone": lambda: Run(*sum(spent).tolist())}
