"""Try every loss in every kind of head, and write the table of docs/losses.md.

    python -m tests.losses.head_table              # print the table
    python -m tests.losses.head_table --write      # put it into docs/losses.md
    python -m tests.losses.head_table --heads GFL --losses EQL EFL

A cell is one training step of a tiny detector, made from MMDetection's own config, on images of 64
pixels: a finite loss, a gradient on the classifier, scores by the right activation, the last
category predicted, the state of the loss in a checkpoint. Where a loss does not work, the model has
to be refused when it is built, in one sentence.
"""

import argparse
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

import mmdet_eql  # noqa: F401
from mmdet_eql.losses import connect_losses
from mmdet_eql.utils.errors import UserError

DOCS = Path(__file__).parents[2] / "docs" / "losses.md"
BEGIN, END = "<!-- python -m tests.losses.head_table --write -->", "<!-- end -->"
C = 4
FREQUENCY = torch.tensor([0.5, 0.2, 0.01, 0.001], dtype=torch.float64)
COUNTS = torch.tensor([500, 200, 10, 1])
#: Bias of the last category and of all other outputs when scores are checked.
HIGH, LOW = 2.0, -2.0

#: Columns of the table: what a loss_cls has beside the arguments of the head's own config.
LOSSES = {
    "EQL": dict(type="EqualizationLoss"),
    "EQL, image labels": dict(type="EqualizationLoss", image_level_labels=True),
    "EQL v2": dict(type="EqualizationLossV2"),
    "EFL": dict(type="EqualizedFocalLoss"),
    "EQFL": dict(type="EqualizedQualityFocalLoss"),
    "focal": dict(type="SigmoidFocalLoss"),
    "CB sigmoid": dict(type="ClassBalancedSigmoidLoss"),
    "federated": dict(type="FederatedLoss", num_chosen=3),
    "federated, image labels": dict(type="FederatedLoss", num_chosen=1, image_level_labels=True),
    "SEQL": dict(type="SoftmaxEqualizationLoss", lambda_=1.76e-3),
    "CB softmax": dict(type="ClassBalancedSoftmaxLoss"),
    "BAGS": dict(type="BalancedGroupSoftmaxLoss"),
    "logit adjustment": dict(type="LogitAdjustedSoftmaxLoss"),
    "DropLoss": dict(type="DropLoss"),
    "GOL": dict(type="GumbelOptimizedLoss"),
    "ECM": dict(type="EffectiveClassMarginLoss"),
    "LOCE": dict(type="EquilibriumLoss"),
    "ACSL": dict(type="AdaptiveClassSuppressionLoss"),
}
#: Rows: MMDetection's configs.
HEADS = {
    "Faster R-CNN": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    "Cascade R-CNN": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
    "Double-Head": "double_heads/dh-faster-rcnn_r50_fpn_1x_coco",
    "RetinaNet": "retinanet/retinanet_r50_fpn_1x_coco",
    "FCOS": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "ATSS": "atss/atss_r50_fpn_1x_coco",
    "GFL": "gfl/gfl_r50_fpn_1x_coco",
    "TOOD": "tood/tood_r50_fpn_1x_coco",
    "RTMDet": "rtmdet/rtmdet_l_8xb32-300e_coco",
    "RTMDet-Ins": "rtmdet/rtmdet-ins_l_8xb32-300e_coco",
    "YOLOX": "yolox/yolox_s_8xb8-300e_coco",
    "Sparse R-CNN": "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco",
    "DAB-DETR": "dab_detr/dab-detr_r50_8xb2-50e_coco",
    "Deformable DETR": "deformable_detr/deformable-detr_r50_16xb2-50e_coco",
    "DINO": "dino/dino-4scale_r50_8xb2-12e_coco",
    "DETR": "detr/detr_r50_8xb2-150e_coco",
    "Mask2Former": "mask2former/mask2former_r50_8xb2-lsj-50e_coco",
}
#: Outputs of a head that its scores are multiplied by.
FACTORS = ("conv_centerness", "atss_centerness", "multi_level_conv_obj", "cls_prob_module")
WIDTH = 32


@functools.cache
def stock_model(head: str) -> ConfigDict:
    """Return the model of MMDetection's config, made tiny, for C categories."""
    model = get_config(f"mmdet::{HEADS[head]}.py").model
    shrink(model)
    return model


def shrink(part) -> None:
    """Make the layers of a config narrow and few, in place."""
    if isinstance(part, (list, tuple)):
        for inner in part:
            shrink(inner)
    if not isinstance(part, dict):
        return
    for name, value in part.items():
        if name in SMALL and not isinstance(value, (dict, list, tuple)):
            part[name] = SMALL[name]
        elif name == "norm_cfg" and value and value["type"] == "SyncBN":
            part[name] = dict(type="BN")
        else:
            shrink(value)
    kind = part.get("type")
    channels = [WIDTH // 4, WIDTH // 2, WIDTH, 2 * WIDTH]
    if kind == "ResNet":
        part.update(depth=18, base_channels=WIDTH // 4, frozen_stages=-1, init_cfg=None)
        part.style = "pytorch"
    elif kind in ("CSPNeXt", "CSPDarknet"):
        part.update(deepen_factor=0.1, widen_factor=WIDTH / 256, init_cfg=None)
    elif kind in ("CSPNeXtPAFPN", "YOLOXPAFPN"):
        part.update(in_channels=[WIDTH, 2 * WIDTH, 4 * WIDTH], out_channels=WIDTH)
        part.num_csp_blocks = 1
    elif kind in ("FPN", "ChannelMapper"):
        part.in_channels = channels[-len(part.in_channels) :]
        part.out_channels = WIDTH
    elif kind == "Mask2FormerHead":
        part.in_channels = channels
        part.update(num_things_classes=C, num_stuff_classes=0)
        part.loss_cls.class_weight = [1.0] * C + [0.1]
    elif kind in ("DeformableDETRHead", "DINOHead", "DETRHead", "ConditionalDETRHead"):
        part.embed_dims = WIDTH
    elif kind == "DynamicConv":
        part.update(in_channels=WIDTH, feat_channels=8, out_channels=WIDTH)
    elif kind == "DetDataPreprocessor":
        part.pop("batch_augments", None)


#: New values of arguments, wherever they are.
SMALL = dict(
    embed_dims=WIDTH, feat_channels=WIDTH, feedforward_channels=WIDTH, num_feats=WIDTH // 2,
    num_layers=2, num_queries=12, num_proposals=12, stacked_convs=1, num_classes=C,
    num_things_classes=C, num_stuff_classes=0, fc_out_channels=WIDTH, conv_out_channels=WIDTH,
    proposal_feature_channel=WIDTH, num_convs=1, num_points=4, num_dn_queries=4, num_ffn_fcs=2,
    in_channels=WIDTH, out_channels=WIDTH, max_per_img=12, max_per_image=12, num_dcn=0,
    score_thr=0.0, initial_epoch=0,
)  # fmt: skip


def category_head(model: ConfigDict) -> list[ConfigDict]:
    """Return the configs of the heads that tell the categories."""
    if "roi_head" in model:
        heads = model.roi_head.bbox_head
        return heads if isinstance(heads, list) else [heads]
    return [model.panoptic_head if "panoptic_head" in model else model.bbox_head]


def build(head: str, loss: str) -> BaseDetector:
    """Return a tiny detector with a loss; a UserError or a TypeError if it does not work there."""
    model = Config(dict(model=stock_model(head).to_dict())).model
    if LOSSES[loss].get("image_level_labels"):
        pass_labels_on(model)
    for part in category_head(model):
        for name in ("loss_cls", "initial_loss_cls"):
            if name == "initial_loss_cls" and (name not in part or loss == "EQFL"):
                continue
            kept = {
                key: value
                for key, value in part[name].items()
                if key in ("use_sigmoid", "activated", "reduction", "class_weight", "bg_cls_weight")
            }
            # A box head leaves it to its loss.
            if "roi_head" in model and "DIIHead" not in part.type:
                kept.pop("use_sigmoid")
            part[name] = dict(kept, **LOSSES[loss])
    detector = MODELS.build(model)
    connect_losses(detector)
    return detector


def pass_labels_on(model: ConfigDict) -> None:
    """Set the heads and samplers that image-level labels need, in place, where there are such."""
    stages = model.train_cfg.get("rcnn", []) if "roi_head" in model else []
    for stage in stages if isinstance(stages, list) else [stages]:
        kind = stage.sampler.type.removeprefix("Random").removesuffix("Sampler")
        stage.sampler.type = f"ImageLevel{kind or 'Label'}Sampler"
    for part in category_head(model):
        if f"ImageLevel{part.type}" in MODELS:
            part.type = f"ImageLevel{part.type}"


def hand_over(detector: nn.Module) -> None:
    """Do what ``ClassFrequencyHook`` does before a training."""
    for module in detector.modules():
        if hasattr(module, "set_class_frequency"):
            module.set_class_frequency(FREQUENCY)
        if hasattr(module, "set_class_counts"):
            module.set_class_counts(COUNTS)


def batch(with_masks: bool) -> dict:
    """Return two images with an object of the first and of the last category each."""
    images, samples = [], []
    for index in range(2):
        images.append(torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8))
        boxes = torch.tensor([[4.0, 4.0, 36.0, 40.0], [20.0, 8.0, 60.0, 50.0]]) + index
        masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        shape = dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64))
        sample = DetDataSample(
            metainfo=dict(**shape, batch_input_shape=(64, 64), scale_factor=(1.0, 1.0)),
            gt_instances=InstanceData(
                bboxes=boxes,
                labels=torch.tensor([0, C - 1]),
            ),
        )
        sample.gt_instances.set_metainfo(dict(verified_labels=torch.tensor([0, 1, C - 1])))
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks.numpy(), 64, 64)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def classifiers(detector: nn.Module, outputs: tuple[int, ...]) -> list[nn.Module]:
    """Return the last layers, linear or convolutions, that tell the categories."""
    head = getattr(detector, "roi_head", detector)
    return [
        layer
        for name, layer in head.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
        and re.search(r"(^|[._])(cls|cls_embed|cls_branches|conv_cls)(\.|$)", name)
        and "rpn" not in name
        and layer.weight.shape[0] in outputs
    ]


def check_cell(head: str, loss: str) -> None:
    """Train and test a tiny detector; an AssertionError if it does not work."""
    torch.manual_seed(0)
    detector = build(head, loss)
    detector.init_weights()
    hand_over(detector)
    losses_of = [m for m in detector.modules() if type(m).__name__ == LOSSES[loss]["type"]]
    assert losses_of
    data = detector.data_preprocessor(batch(head in ("RTMDet-Ins", "Mask2Former")), True)
    detector.train()
    if head == "TOOD":
        MessageHub.get_current_instance().update_info("epoch", 0)
    total, logged = detector.parse_losses(detector.loss(data["inputs"], data["data_samples"]))
    assert math.isfinite(total), logged
    total.backward()
    per_anchor = range(1, 10)
    width = C + losses_of[0].extra_logits
    layers = classifiers(detector, tuple(n * width for n in per_anchor))
    assert layers, "no classifier found"
    assert any(layer.weight.grad is not None and layer.weight.grad.any() for layer in layers)
    check_scores(head, detector, layers, data, losses_of[0])
    check_state(head, loss, detector)


@torch.no_grad()
def check_scores(head: str, detector, layers: list[nn.Module], data: dict, loss) -> None:
    """Let the last category win, and compare its score with the activation."""
    width = C + loss.extra_logits
    for layer in layers:
        layer.weight.zero_()
        bias = torch.full((width,), LOW)
        bias[C - 1] = HIGH
        layer.bias.copy_(bias.repeat(len(layer.bias) // width))
    for name, layer in detector.named_modules():
        if any(factor in name for factor in FACTORS) and getattr(layer, "bias", None) is not None:
            layer.weight.zero_()
            layer.bias.fill_(30.0)
    detector.eval()
    logits = torch.full((1, width), LOW)
    logits[0, C - 1] = HIGH
    expected = loss.get_activation(logits)[0, C - 1]
    if head == "TOOD":  # the mean of two probabilities, the second of which is now 1
        expected = expected.sqrt()
    for sample in detector.predict(data["inputs"], data["data_samples"]):
        best = sample.pred_instances
        assert len(best.labels), "nothing predicted"
        top = best.scores.argmax()
        assert best.labels[top] == C - 1, f"category {best.labels[top]} wins"
        assert best.labels.max() < C
        if head != "Mask2Former":  # there the quality of the mask is a factor
            torch.testing.assert_close(best.scores[top], expected, rtol=1e-3, atol=0)


def check_state(head: str, loss: str, detector: nn.Module) -> None:
    """Load the checkpoint into a detector that was not told the number of categories."""
    state = detector.state_dict()
    part = next(m for m in detector.modules() if type(m).__name__ == LOSSES[loss]["type"])
    fresh = MODELS.build(LOSSES[loss])
    prefix = next(name for name, m in detector.named_modules() if m is part)
    own = {
        name.removeprefix(f"{prefix}."): value
        for name, value in state.items()
        if name.startswith(f"{prefix}.")
    }
    fresh.load_state_dict(own)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, own[name]), name
    if own:
        assert fresh.num_classes == C
    for name in ("pos_grad", "neg_grad"):
        assert name not in own or own[name].sum() > 0


def outcome(head: str, loss: str) -> str | None:
    """Return None if a loss works in a head, the sentence that refuses it otherwise."""
    try:
        check_cell(head, loss)
    except (UserError, TypeError) as error:
        return str(error)
    return None


def table(heads: list[str], losses: list[str], run: Callable[[str, str], str | None]) -> str:
    """Return the table in Markdown: heads by losses."""
    rows = [f"| | {' | '.join(losses)} |", "|---" * (len(losses) + 1) + "|"]
    for head in heads:
        cells = ["yes" if run(head, loss) is None else "-" for loss in losses]
        rows.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run the cells that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    args = parser.parse_args()
    if args.write and (args.heads, args.losses) != (list(HEADS), list(LOSSES)):
        parser.error("--write replaces the whole table; leave out --heads and --losses.")
    init_default_scope("mmdet")
    MMLogger.get_instance("loss_table", log_level="ERROR")  # for what init_weights() logs

    def run(head: str, loss: str) -> str | None:
        reason = outcome(head, loss)
        print(f"{head}, {loss}: {reason or 'works'}", flush=True)
        return reason

    text = table(args.heads, args.losses, run)
    print(text)
    if args.write:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
