"""Time and memory of training: the mask head, a training step, and the record of gradients.

The mask head is that of Mask R-CNN R50-FPN, four convolutions of 256 channels at 14 x 14 cells and
masks of 28 x 28, forward, loss and backward: SelectiveFCNMaskHead beside MMDetection's FCNMaskHead,
once with a mask of every category, which has the same result, and once class-agnostic, which has
the same cost. The step is that of the small Mask R-CNN of configs/minilvis with the categories and
the 512 sampled proposals per image of LVIS, on two images of noise with 12 objects each: losses,
backward pass and step of the optimizer, with EQL beside softmax, and with GradientRecordHook beside
none. Backbone and neck are small, so that what the two do differently weighs more than in a
ResNet-50. Both draw the same proposals.
"""

import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from side_by_side import (
    CONFIGS,
    DEVICE,
    LVIS_CATEGORIES,
    Comparison,
    Limit,
    Workload,
    build_model,
    compare,
    multiplications,
)

from mmdet_eql.engine import GradientRecordHook
from mmdet_eql.frequency import ClassFrequency

HEADS = {
    "ours": dict(type="SelectiveFCNMaskHead"),
    "class-specific": dict(type="FCNMaskHead"),
    "class-agnostic": dict(type="FCNMaskHead", class_agnostic=True),
}
EQL = "mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"
NUM_PROPOSALS = 512
IMAGE_SIZE = 160
NUM_OBJECTS = 12


def measure(quick: bool) -> list[Comparison]:
    """Compare the mask head, a step with EQL, and a recorded one."""
    num_rois = 8 if quick else 128
    heads = {name: make_mask_step(name, LVIS_CATEGORIES, num_rois) for name in HEADS}
    comparisons = compare(
        "mask head",
        f"{num_rois} RoIs, {LVIS_CATEGORIES:,} categories, forward + loss + backward",
        heads,
        # At most 15 % more than a head that knows no categories.
        {"class-specific": 1.5, "class-agnostic": 1 / 1.15},
        repeats=1 if quick else 5,
        limit=Limit(0, multiplications(heads["class-agnostic"])),
    )
    models = [
        make_model(config, LVIS_CATEGORIES, NUM_PROPOSALS)
        for config in (EQL, EQL.replace("_eql", ""), EQL)
    ]
    eql, softmax, recorded = (step_of(model, LVIS_CATEGORIES) for model in models)
    recorded = with_record(models[-1], recorded, LVIS_CATEGORIES)
    options = dict(repeats=1 if quick else 15, limit=Limit(0, multiplications(eql)))
    size = (
        f"Mask R-CNN R18, 2 x {IMAGE_SIZE} px, {NUM_PROPOSALS} proposals, "
        f"{LVIS_CATEGORIES:,} categories"
    )
    for part, ours, name, rival, target in (
        ("training step", eql, "softmax", softmax, 1),
        ("gradient record, training step", recorded, "not recorded", eql, 1 / 1.02),
    ):
        works = {"ours": ours, name: rival}
        comparisons += compare(part, size, works, {name: target}, **options)
    return comparisons


def make_mask_step(name: str, num_classes: int, num_rois: int) -> Workload:
    """Loss and gradients of a mask head, from features of RoIs on."""
    head = build_model(dict(num_classes=num_classes, **HEADS[name]))
    features = torch.randn(num_rois, 256, 14, 14).to(DEVICE).requires_grad_()
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 150, (num_rois, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 90, (num_rois, 2))], axis=1)
    sample = SimpleNamespace(
        pos_priors=torch.from_numpy(boxes).float().to(DEVICE),
        pos_assigned_gt_inds=torch.from_numpy(rng.integers(0, NUM_OBJECTS, num_rois)).to(DEVICE),
        pos_gt_labels=torch.from_numpy(rng.integers(0, num_classes, num_rois)).to(DEVICE),
    )
    bitmaps = rng.integers(0, 2, (NUM_OBJECTS, 240, 240), dtype=np.uint8)
    truth = [InstanceData(masks=BitmapMasks(bitmaps, 240, 240))]
    inputs = [features, *head.parameters()]

    def step() -> None:
        for one in inputs:
            one.grad = None
        losses = head.loss_and_target(head(features), [sample], truth, ConfigDict(mask_size=28))
        losses["loss_mask"]["loss_mask"].sum().backward()

    return step


def step_of(model: torch.nn.Module, num_classes: int) -> Workload:
    """A training step of a model."""
    # So small a rate that the model, and with it the work, stays what it is.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)
    batch = model.data_preprocessor(make_batch(num_classes), training=True)

    def step() -> None:
        torch.manual_seed(0)  # of the sampled proposals
        losses, _ = model.parse_losses(model(**batch, mode="loss"))
        losses.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_record(model: torch.nn.Module, step: Workload, num_classes: int) -> Workload:
    """The step with the hook; its notes, once in hundreds of steps, are left out."""
    counts = np.ones(num_classes, np.int64)
    frequency = ClassFrequency(counts, counts, 1, tuple(map(str, range(num_classes))))
    runner = SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(class_frequency=frequency)),
        iter=0,
        optim_wrapper=None,
        work_dir=tempfile.gettempdir(),
    )
    hook = GradientRecordHook()
    hook.before_train(runner)

    def recorded_step() -> GradientRecordHook:
        hook.before_train_iter(runner, 0)
        step()
        hook.after_train_iter(runner, 0)
        return hook

    return recorded_step


def make_model(config: str, num_classes: int, num_proposals: int) -> torch.nn.Module:
    """The model of a config of MiniLVIS at another number of categories and proposals."""
    model_config = Config.fromfile(CONFIGS / "minilvis" / config).model
    for head in (model_config.roi_head.bbox_head, model_config.roi_head.mask_head):
        head.num_classes = num_classes
    model_config.train_cfg.rpn_proposal.update(nms_pre=2000, max_per_img=2 * num_proposals)
    model_config.train_cfg.rcnn.sampler.num = num_proposals
    model = build_model(model_config)
    loss = model.roi_head.bbox_head.loss_cls
    if hasattr(loss, "set_class_frequency"):
        # Three quarters of the categories are in the tail, as in LVIS v0.5.
        loss.set_class_frequency(torch.linspace(0, loss.lambda_ / 0.75, num_classes))
    return model.train()


def make_batch(num_classes: int) -> dict:
    """Two images of noise with ground truth, as a data loader gives them."""
    shape, num_items = (3, IMAGE_SIZE, IMAGE_SIZE), [NUM_OBJECTS, NUM_OBJECTS]
    return demo_mm_inputs(2, shape, num_items, num_classes, with_mask=True)
