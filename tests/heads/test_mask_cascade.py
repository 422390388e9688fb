"""Cascades with selective mask heads beside mmdet's: the same losses, gradients and masks."""

import copy

import pycocotools.mask as mask_utils
import pytest
import torch

from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import C, batch_of, build, make_config, stages

PARTS = {
    "cascade": ("SelectiveFCNMaskHead", "SelectiveMaskCascadeRoIHead"),
    "htc": ("SelectiveHTCMaskHead", "SelectiveMaskHTCRoIHead"),
}

every_cascade = pytest.mark.parametrize("detector", PARTS)


def make_models(detector, data_root, masks_as_rle=False, class_agnostic=False, roi_head=True):
    """mmdet's cascade, the same one with selective mask heads, and the training set."""
    cfg = make_config(detector, "sigmoid", data_root)
    for head in stages(cfg.model.roi_head.mask_head):
        head.update(class_agnostic=class_agnostic)
    selective = copy.deepcopy(cfg)
    head_type, roi_head_type = PARTS[detector]
    if roi_head:
        selective.model.roi_head.type = roi_head_type
    for head in stages(selective.model.roi_head.mask_head):
        head.update(type=head_type, masks_as_rle=masks_as_rle)
    theirs, dataset = build(cfg)
    ours, _ = build(selective)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, dataset


def predict(model, dataset, indices=(0, 1)) -> list:
    model.eval()
    with torch.no_grad():
        samples = model(**batch_of(model, dataset, indices, training=False), mode="predict")
    return [sample.pred_instances for sample in samples]


@every_cascade
def test_a_training_step(detector, minilvis):
    theirs, ours, dataset = make_models(detector, minilvis)
    totals, gradients = [], []
    for model in (theirs, ours):
        torch.manual_seed(0)
        total, _ = model.parse_losses(model(**batch_of(model, dataset), mode="loss"))
        total.backward()
        totals.append(total)
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-5, atol=1e-5)
    for stage in range(3):
        weight = gradients[0][f"roi_head.mask_head.{stage}.conv_logits.weight"]
        assert weight.shape[0] == C
        assert weight.abs().sum() > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


@every_cascade
@pytest.mark.parametrize("as_rle", [False, True])
def test_predictions(detector, as_rle, minilvis):
    theirs, ours, dataset = make_models(detector, minilvis, masks_as_rle=as_rle)
    # Weights of every stage and category far from each other: the wrong one would show.
    for stage, head in enumerate(theirs.roi_head.mask_head):
        torch.nn.init.normal_(head.conv_logits.weight, std=2.0)
        torch.nn.init.normal_(head.conv_logits.bias, mean=stage - 1)
    ours.load_state_dict(theirs.state_dict())
    for mine, other in zip(predict(ours, dataset), predict(theirs, dataset), strict=True):
        assert len(other.labels.unique()) > 1
        assert torch.equal(mine.bboxes, other.bboxes)
        sides = other.bboxes[:, 2:] - other.bboxes[:, :2]
        assert 0.1 < other.masks.sum() / sides.prod(dim=1).sum() < 0.9
        masks = mine.masks
        if as_rle:
            masks = torch.from_numpy(mask_utils.decode(masks).astype(bool)).permute(2, 0, 1)
        assert masks.shape == other.masks.shape
        # There are rounding errors between the logits.
        assert (masks != other.masks).float().mean() < 1e-5


@every_cascade
def test_images_without_detections(detector, minilvis):
    theirs, ours, dataset = make_models(detector, minilvis, masks_as_rle=True)
    for model in (theirs, ours):
        model.roi_head.test_cfg.score_thr = 1.0
    for mine, other in zip(predict(ours, dataset), predict(theirs, dataset), strict=True):
        assert len(mine) == 0
        assert torch.equal(mine.masks, other.masks)


@every_cascade
def test_class_agnostic_masks(detector, minilvis):
    theirs, ours, dataset = make_models(detector, minilvis, class_agnostic=True)
    for head in ours.roi_head.mask_head:
        assert head.conv_logits.out_channels == 1
    for mine, other in zip(predict(ours, dataset), predict(theirs, dataset), strict=True):
        assert torch.equal(mine.masks, other.masks)


@every_cascade
def test_the_wrong_roi_head_is_one_sentence(detector, minilvis):
    _, ours, dataset = make_models(detector, minilvis, roi_head=False)
    with pytest.raises(UserError, match=PARTS[detector][1]) as error:
        predict(ours, dataset)
    assert "\n" not in str(error.value)
