"""Time and memory of a training step: Mask R-CNN with EQL beside MMDetection's with softmax.

The small Mask R-CNN of configs/minilvis with the categories and the 512 sampled proposals per image
of LVIS, on two images of noise with 12 objects each: losses, backward pass and step of the
optimizer. Backbone and neck are small, so that what the two do differently weighs more than in a
ResNet-50. Both draw the same proposals.
"""

from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from side_by_side import LVIS_CATEGORIES, Comparison, Target, Workload, compare

import mmdet_eql  # noqa: F401 (registers its parts)

PART = "training step"
CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "minilvis"
CONFIG = "mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"
NUM_PROPOSALS = 512
IMAGE_SIZE = 160
NUM_IMAGES = 2
NUM_OBJECTS = 12


def measure(quick: bool) -> list[Comparison]:
    """Compare a step with EQL to a step with softmax cross-entropy."""
    eql, softmax = (
        step_of(make_model(config, LVIS_CATEGORIES, NUM_PROPOSALS), LVIS_CATEGORIES)
        for config in (CONFIG, CONFIG.replace("_eql", ""))
    )
    return compare(
        PART,
        f"Mask R-CNN R18, {NUM_IMAGES} x {IMAGE_SIZE} px, {NUM_PROPOSALS} proposals, "
        f"{LVIS_CATEGORIES:,} categories",
        eql,
        {"softmax": softmax},
        {"softmax": Target(ratio=1.0)},
        repeats=5 if quick else 15,
    )


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


def make_model(config: str, num_classes: int, num_proposals: int) -> torch.nn.Module:
    """The model of a config of MiniLVIS at another number of categories and proposals."""
    init_default_scope("mmdet")
    model_config = Config.fromfile(CONFIGS / config).model
    model_config.roi_head.bbox_head.num_classes = num_classes
    model_config.roi_head.mask_head.num_classes = num_classes
    model_config.train_cfg.rpn_proposal.update(nms_pre=2000, max_per_img=2 * num_proposals)
    model_config.train_cfg.rcnn.sampler.num = num_proposals
    MMLogger.get_current_instance().setLevel("WARNING")  # each initialised weight is a message
    torch.manual_seed(0)
    model = MODELS.build(model_config)
    model.init_weights()
    loss = model.roi_head.bbox_head.loss_cls
    if hasattr(loss, "set_class_frequency"):
        # Three quarters of the categories are in the tail, as in LVIS v0.5.
        loss.set_class_frequency(torch.linspace(0, loss.lambda_ / 0.75, num_classes))
    return model.train()


def make_batch(num_classes: int) -> dict:
    """Images of noise with ground truth, as a data loader gives them."""
    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(NUM_IMAGES):
        inputs.append(torch.from_numpy(rng.integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)))
        corners = rng.integers(0, IMAGE_SIZE // 2, (NUM_OBJECTS, 2))
        boxes = np.concatenate([corners, corners + rng.integers(16, 80, (NUM_OBJECTS, 2))], axis=1)
        masks = np.zeros((NUM_OBJECTS, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        size = (IMAGE_SIZE, IMAGE_SIZE)
        shapes = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
        sample = DetDataSample(metainfo=dict.fromkeys(shapes, size) | dict(scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(rng.integers(0, num_classes, NUM_OBJECTS)),
            masks=BitmapMasks(masks, *size),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
