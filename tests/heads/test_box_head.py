"""Box heads with NMS over the highest scores: mmdet's detections and checkpoints."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from tests.heads.test_detectors import DETECTORS, batch_of, build, make_config

NUM_CLASSES = 30
LOSSES = {
    "softmax": dict(type="CrossEntropyLoss"),
    "eql": dict(type="EqualizationLoss", lambda_=0.0),
    "seesaw": dict(type="SeesawLoss", num_classes=NUM_CLASSES),
}
HEADS = ["ConvFCBBoxHead", "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"]


def make_pair(head="Shared2FCBBoxHead", loss="softmax", **options):
    """mmdet's head, and ours with its parameters."""
    init_default_scope("mmdet")
    options = dict(
        in_channels=4,
        roi_feat_size=2,
        fc_out_channels=8,
        conv_out_channels=4,
        num_classes=NUM_CLASSES,
        loss_cls=LOSSES[loss],
        **options,
    )
    if head == "ConvFCBBoxHead":
        options["num_shared_fcs"] = 1
    torch.manual_seed(0)
    theirs = MODELS.build(dict(type=head, **options))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours = MODELS.build(dict(type=f"PrefixNMS{head}", **options))
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def detect(head, test_cfg, rescale=True, with_boxes=True, numbers=(25, 0, 40)) -> list:
    """Detections of images with so many proposals."""
    generator = torch.Generator().manual_seed(2)
    corners = 60 * torch.rand(sum(numbers), 2, generator=generator)
    sides = 5 + 40 * torch.rand(sum(numbers), 2, generator=generator)
    image = torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
    rois = torch.cat([image[:, None], corners, corners + sides], dim=1)
    with torch.no_grad():
        scores, deltas = head(torch.rand(len(rois), 4, 2, 2, generator=generator))
    return head.predict_by_feat(
        rois.split(numbers),
        (2 * scores / scores.abs().mean()).split(numbers),
        (0.1 * deltas).split(numbers) if with_boxes else [None] * len(numbers),
        [dict(img_shape=(90, 100), scale_factor=(1.5, 2.0))] * len(numbers),
        test_cfg,
        rescale,
    )


def assert_same_detections(theirs, ours) -> None:
    for wanted, result in zip(theirs, ours, strict=True):
        assert set(wanted.keys()) == set(result.keys())
        for key, value in wanted.items():
            assert torch.equal(result[key], value)


TEST_CFG = ConfigDict(score_thr=1e-4, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_detections_are_those_of_mmdet(head, loss, agnostic):
    theirs, ours = make_pair(head, loss, reg_class_agnostic=agnostic)
    for rescale in (False, True):
        wanted = detect(theirs, TEST_CFG, rescale)
        assert len(wanted[0]) == len(wanted[2]) == 20
        assert_same_detections(wanted, detect(ours, TEST_CFG, rescale))


def test_without_boxes_or_proposals_or_nms():
    theirs, ours = make_pair()
    for options in (
        dict(with_boxes=False),
        dict(numbers=(0, 0)),
        dict(test_cfg=None),  # as test-time augmentation calls it
        dict(test_cfg=ConfigDict(TEST_CFG, score_thr=1.0)),
        dict(test_cfg=ConfigDict(TEST_CFG, nms=dict(type="soft_nms", iou_threshold=0.5))),
    ):
        options = {"test_cfg": TEST_CFG, **options}
        assert_same_detections(detect(theirs, **options), detect(ours, **options))


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_finds_the_same(detector, minilvis):
    results = []
    for head in ("Shared2FCBBoxHead", "PrefixNMSShared2FCBBoxHead"):
        cfg = make_config(detector, "eql", minilvis, type=head)
        cfg.model.test_cfg.rcnn.score_thr = 1e-4
        model, dataset = build(cfg)
        model.eval()
        with torch.no_grad():
            batch = batch_of(model, dataset, training=False)
            results.append(model(**batch, mode="predict"))
    for theirs, ours in zip(*results, strict=True):
        assert len(theirs.pred_instances) > 10
        assert_same_detections([theirs.pred_instances], [ours.pred_instances])
