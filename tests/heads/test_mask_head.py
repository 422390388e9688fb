"""Selective mask heads beside mmdet's: the same losses, gradients, masks and checkpoints."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmdet_eql.heads import SelectiveFCNMaskHead, SelectiveHTCMaskHead
from mmdet_eql.heads.mask_head import SelectableLogits
from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import C, batch_of, build, make_config
from tests.heads.test_multiclass_nms import LargestTensor

CHANNELS, SIDE, NUM_CLASSES = 6, 7, 11
PREDICTORS = [dict(type="Conv"), dict(type="NormedConv2d")]
UPSAMPLINGS = ["deconv", "nearest", "bilinear", None]
TRAIN_CFG = ConfigDict(mask_size=2 * SIDE)


@pytest.fixture(autouse=True)
def scope_of_mmdet():
    """Where 'NormedConv2d' is registered."""
    init_default_scope("mmdet")


every_predictor = pytest.mark.parametrize("predictor", PREDICTORS, ids=["conv", "normed"])


def make_pair(stock=FCNMaskHead, selective=SelectiveFCNMaskHead, masks_as_rle=False, **options):
    """mmdet's head, and the selective one with its parameters."""
    options = dict(
        num_convs=2,
        in_channels=CHANNELS,
        conv_out_channels=CHANNELS,
        **{"num_classes": NUM_CLASSES, **options},
    )
    torch.manual_seed(0)
    theirs, ours = stock(**options), selective(masks_as_rle=masks_as_rle, **options)
    theirs.init_weights()
    torch.nn.init.normal_(theirs.conv_logits.bias)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_ground_truth(number: int, mask_side: int = 2 * SIDE):
    """Sampled RoIs of two images, ``number`` in the second one, and the objects they are of."""
    generator = torch.Generator().manual_seed(1)
    samples, objects = [], []
    for count in (0, number):
        corners = 20 * torch.rand(count, 2, generator=generator)
        sides = 3 + 15 * torch.rand(count, 2, generator=generator)
        samples.append(
            SimpleNamespace(
                pos_priors=torch.cat([corners, corners + sides], dim=1),
                pos_assigned_gt_inds=torch.randint(3, (count,), generator=generator),
                pos_gt_labels=torch.randint(NUM_CLASSES, (count,), generator=generator),
            )
        )
        bitmaps = torch.randint(2, (3, 40, 40), generator=generator).numpy().astype(np.uint8)
        objects.append(InstanceData(masks=BitmapMasks(bitmaps, 40, 40)))
    return samples, objects, ConfigDict(mask_size=mask_side)


def loss_and_gradients(head, features, ground_truth):
    features = features.clone().requires_grad_()
    head.zero_grad()
    preds = head(features)
    preds = preds[0] if isinstance(preds, list) else preds  # of HTC
    result = head.loss_and_target(preds, *ground_truth)
    loss = result["loss_mask"]["loss_mask"]
    loss.sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    return loss, {"features": features.grad, **gradients}, result["mask_targets"]


def assert_same_training(theirs, ours, number, mask_side=2 * SIDE):
    torch.manual_seed(2)
    features = torch.randn(number, CHANNELS, SIDE, SIDE)
    ground_truth = make_ground_truth(number, mask_side)
    their_loss, their_gradients, their_targets = loss_and_gradients(theirs, features, ground_truth)
    our_loss, our_gradients, our_targets = loss_and_gradients(ours, features, ground_truth)
    torch.testing.assert_close(our_loss.sum(), their_loss.sum(), rtol=1e-5, atol=1e-6)
    assert torch.equal(our_targets, their_targets)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        # In distributed training, a parameter without a gradient is an error: also without RoIs.
        assert (our_gradients[name] is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-5, atol=1e-6)
    return our_gradients


@every_predictor
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("number", [0, 1, 9])
def test_loss_and_gradients(predictor, upsampling, number):
    pair = make_pair(predictor_cfg=predictor, upsample_cfg=dict(type=upsampling, scale_factor=2))
    gradients = assert_same_training(*pair, number, SIDE if upsampling is None else 2 * SIDE)
    assert (gradients["conv_logits.weight"].abs().sum() > 0) == (number > 0)


@every_predictor
@pytest.mark.parametrize("number", [0, 9])
def test_loss_and_gradients_in_htc(predictor, number):
    pair = make_pair(HTCMaskHead, SelectiveHTCMaskHead, predictor_cfg=predictor)
    assert_same_training(*pair, number)


@every_predictor
def test_every_logit(predictor):
    theirs, ours = make_pair(predictor_cfg=predictor)
    features = torch.randn(4, CHANNELS, SIDE, SIDE)
    expected, selectable = theirs(features), ours(features)
    for label in range(NUM_CLASSES):
        logits = selectable.select(torch.full((4,), label))
        torch.testing.assert_close(logits, expected[:, [label]], rtol=1e-5, atol=1e-5)
    parts = selectable.split([1, 0, 3], 0)
    shapes = [
        tuple(part.select(torch.zeros(n).long()).shape)
        for part, n in zip(parts, [1, 0, 3], strict=True)
    ]
    assert shapes == [(n, 1, 2 * SIDE, 2 * SIDE) for n in (1, 0, 3)]
    torch.testing.assert_close(parts[2].select(torch.tensor([2, 0, 5]))[1, 0], expected[2, 0])


def test_initial_weights_are_those_of_mmdet():
    states = []
    for head in (FCNMaskHead, SelectiveFCNMaskHead):
        torch.manual_seed(3)
        initialised = head(num_convs=1, num_classes=NUM_CLASSES)
        initialised.init_weights()
        states.append(initialised.state_dict())
    for name, parameter in states[0].items():
        assert torch.equal(parameter, states[1][name]), name


@pytest.mark.parametrize(
    ("stock", "selective"),
    [(FCNMaskHead, SelectiveFCNMaskHead), (HTCMaskHead, SelectiveHTCMaskHead)],
)
def test_class_agnostic_heads_are_mmdets(stock, selective):
    theirs, ours = make_pair(stock, selective, class_agnostic=True)
    assert isinstance(ours(torch.randn(1, CHANNELS, SIDE, SIDE)), (torch.Tensor, list))
    assert ours.conv_logits.out_channels == 1
    assert_same_training(theirs, ours, 5)


def test_nothing_is_computed_for_every_class_and_pixel():
    sizes, num_classes = [], 500
    for head in make_pair(num_classes=num_classes):
        with LargestTensor() as largest:
            loss_and_gradients(head, torch.randn(9, CHANNELS, SIDE, SIDE), make_ground_truth(9))
        sizes.append(largest.size)
    assert sizes[0] == 4 * 9 * num_classes * (2 * SIDE) ** 2
    assert sizes[1] < sizes[0] / 50


# --- prediction -----------------------------------------------------------------------------------

ORI_SHAPE, SCALE = (45, 61), (1.53, 1.47)
IMG_META = dict(ori_shape=ORI_SHAPE, scale_factor=SCALE)


def predict(head, preds, boxes, labels, threshold=0.5, rescale=True, activate_map=False):
    """Results of two images, the first one without detections."""
    counts = [0, len(labels)]
    results = [
        InstanceData(bboxes=box.clone(), labels=label, scores=torch.ones(len(label)))
        for box, label in zip(boxes.split([0, len(boxes)]), labels.split(counts), strict=True)
    ]
    return head.predict_by_feat(
        preds.split(counts, 0),
        results,
        [IMG_META, IMG_META],
        ConfigDict(mask_thr_binary=threshold),
        rescale=rescale,
        activate_map=activate_map,
    )


def make_detections(number=8):
    torch.manual_seed(4)
    corners = torch.rand(number, 2) * 40
    boxes = torch.cat([corners, corners + 1 + torch.rand(number, 2) * 60], dim=1)
    return torch.randn(number, CHANNELS, SIDE, SIDE), boxes, torch.randint(NUM_CLASSES, (number,))


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("threshold", [0.5, 0.3, -1])
def test_predicted_masks(agnostic, rescale, threshold):
    features, boxes, labels = make_detections()
    theirs, ours = make_pair(class_agnostic=agnostic)
    expected = predict(theirs, theirs(features), boxes, labels, threshold, rescale)
    predicted = predict(ours, ours(features), boxes, labels, threshold, rescale)
    for mine, other in zip(predicted, expected, strict=True):
        assert mine.masks.dtype == other.masks.dtype
        assert torch.equal(mine.masks, other.masks)
        assert torch.equal(mine.bboxes, other.bboxes)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("rescale", [True, False])
def test_predicted_rles(agnostic, rescale):
    features, boxes, labels = make_detections()
    theirs, ours = make_pair(class_agnostic=agnostic, masks_as_rle=True)
    empty, expected = predict(theirs, theirs(features), boxes, labels, rescale=rescale)
    mine_empty, mine = predict(ours, ours(features), boxes, labels, rescale=rescale)
    assert torch.equal(mine_empty.masks, empty.masks)
    assert mine.masks == encode_mask_results(expected.masks.numpy())
    assert torch.equal(mine.bboxes, expected.bboxes)
    # Results are sorted and cut by index.
    assert mine[torch.tensor([5, 2])].masks == [mine.masks[5], mine.masks[2]]


def test_soft_masks_have_no_rle():
    features, boxes, labels = make_detections()
    theirs, ours = make_pair(masks_as_rle=True)
    expected = predict(theirs, theirs(features), boxes, labels, threshold=-1)[1].masks
    predicted = predict(ours, ours(features), boxes, labels, threshold=-1)[1].masks
    assert predicted.dtype == torch.uint8
    assert (predicted.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("as_rle", [False, True])
def test_activated_masks(as_rle):
    """As cascades give them."""
    features, boxes, labels = make_detections()
    theirs, ours = make_pair(masks_as_rle=as_rle)
    everything = theirs(features).sigmoid().detach()
    chosen = ours(features).select(labels).sigmoid().detach()
    expected = predict(theirs, everything, boxes, labels, activate_map=True)[1].masks
    predicted = predict(ours, chosen, boxes, labels, activate_map=True)[1].masks
    if as_rle:
        assert predicted == encode_mask_results(expected.numpy())
    else:
        assert torch.equal(predicted, expected)


# --- errors ---------------------------------------------------------------------------------------


def test_another_predictor_is_one_sentence():
    with pytest.raises(UserError, match=r"predictor_cfg\.type is 'DCNv2'"):
        SelectiveFCNMaskHead(predictor_cfg=dict(type="DCNv2"))


def test_a_class_can_name_the_predictor():
    head = SelectiveFCNMaskHead(predictor_cfg=dict(type=torch.nn.Conv2d), num_convs=0)
    assert isinstance(head(torch.randn(1, 256, 2, 2)), SelectableLogits)


@pytest.mark.parametrize(
    "use",
    [
        lambda logits: logits.sigmoid(),
        lambda logits: logits[range(2), torch.tensor([0, 1])],  # as Mask Scoring R-CNN
        lambda logits: logits.split([1, 1], dim=1),
        lambda logits: logits.size(0),
    ],
)
def test_logits_of_all_categories_are_refused(use):
    logits = make_pair()[1](torch.randn(2, CHANNELS, SIDE, SIDE))
    with pytest.raises(UserError, match="SelectiveMaskCascadeRoIHead") as error:
        use(logits)
    assert "\n" not in str(error.value)
    copy.copy(logits)  # asks for what need not be there


# --- Mask R-CNN -----------------------------------------------------------------------------------


def test_a_training_step_of_mask_rcnn(minilvis):
    gradients = []
    for head in (
        dict(type="FCNMaskHead"),
        dict(type="SelectiveFCNMaskHead", masks_as_rle=True),
    ):
        cfg = make_config("mask-rcnn", "sigmoid", minilvis)
        cfg.model.roi_head.mask_head.update(class_agnostic=False, **head)
        model, dataset = build(cfg)
        torch.manual_seed(0)
        total, _ = model.parse_losses(model(**batch_of(model, dataset), mode="loss"))
        total.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    assert gradients[0]["roi_head.mask_head.conv_logits.weight"].shape[0] == C
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_figures_of_lvis_are_the_same(tiny_config, tmp_path):
    figures, boxes, masks = [], [], []
    for run, head in enumerate(
        [
            dict(type="FCNMaskHead"),
            dict(type="SelectiveFCNMaskHead"),
            dict(type="SelectiveFCNMaskHead", masks_as_rle=True),
        ]
    ):
        cfg = tiny_config("softmax")
        cfg.model.roi_head.mask_head.update(class_agnostic=False, **head)
        cfg.experiment_name = f"run{run}"
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.test_dataloader.dataset.indices = 8
        cfg.test_evaluator.outfile_prefix = str(tmp_path / cfg.experiment_name)
        runner = Runner.from_cfg(cfg)
        if run == 0:
            runner.train()
            state = runner.model.state_dict()
        runner.model.load_state_dict(state)
        figures.append(runner.test())
        boxes.append((tmp_path / f"run{run}.bbox.json").read_text())
        masks.append(json.loads((tmp_path / f"run{run}.segm.json").read_text()))
    assert boxes[0] == boxes[1] == boxes[2]
    assert masks[1] == masks[2]
    # Between mmdet's logits and ours are rounding errors, and so between the masks.
    assert len(masks[0]) > 100
    stock, selective = (
        np.stack([mask_utils.decode(record["segmentation"]) for record in records])
        for records in masks[:2]
    )
    assert 0.01 < stock.mean() < 0.9
    assert (stock != selective).mean() < 1e-5
    assert figures[1] == pytest.approx(figures[0], abs=1e-5)
    assert figures[2] == figures[1]
