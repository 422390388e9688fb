"""Test-time augmentation beside plain testing, in all detectors and with all mask heads."""

import copy

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmcv.transforms import TestTimeAug as Augment  # not to be collected as a test
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.structures import InstanceData

from mmdet_eql.engine import launch
from mmdet_eql.heads import InstanceTTAModel
from mmdet_eql.utils.errors import UserError
from tests.conftest import TINY
from tests.heads.test_detectors import DETECTORS, build, make_config, stages

SELECTIVE = {
    "mask-rcnn": ("SelectiveFCNMaskHead", None),
    "cascade": ("SelectiveFCNMaskHead", "SelectiveMaskCascadeRoIHead"),
    "htc": ("SelectiveHTCMaskHead", "SelectiveMaskHTCRoIHead"),
}
MASK_HEADS = {
    "agnostic": dict(class_agnostic=True),
    "specific": dict(class_agnostic=False),
    "selective": dict(class_agnostic=False),
    "rle": dict(class_agnostic=False, masks_as_rle=True),
}
PLAIN = [(TINY.image_size, 0.0, "horizontal")]
VIEWS = [*PLAIN, (TINY.image_size, 1.0, "horizontal"), (TINY.image_size * 3 // 2, 1.0, "diagonal")]

every_detector = pytest.mark.parametrize("detector", DETECTORS)


def make_model(minilvis, detector="mask-rcnn", masks="agnostic", method="eql"):
    """A detector that detects, and the images it is tested on."""
    cfg = make_config(detector, method, minilvis)
    for head in stages(cfg.model.roi_head.mask_head):
        head.update(MASK_HEADS[masks])
        if masks in ("selective", "rle"):
            head.type = SELECTIVE[detector][0]
    if masks in ("selective", "rle") and SELECTIVE[detector][1]:
        cfg.model.roi_head.type = SELECTIVE[detector][1]
    cfg.model.test_cfg.rcnn.max_per_img = 12
    model, dataset = build(cfg)
    return model.eval(), dataset


def images_of(dataset, indices=(0, 1)) -> list[np.ndarray]:
    return [
        dataset.pipeline.transforms[0](copy.deepcopy(dataset.get_data_info(index)))["img"]
        for index in indices
    ]


def look(images, views) -> dict:
    """A batch of images in several views (scale, probability of a flip, its direction)."""
    data = []
    for image in images:
        results = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        looks = [
            Augment([
                [dict(type="mmdet.Resize", scale=(scale, scale), keep_ratio=True)],
                [dict(type="mmdet.RandomFlip", prob=prob, direction=direction)],
                [dict(type="mmdet.PackDetInputs",
                      meta_keys=("ori_shape", "img_shape", "scale_factor", "flip",
                                 "flip_direction"))],
            ])(results)
            for scale, prob, direction in views
        ]  # fmt: skip
        data.append({key: [item[key][0] for item in looks] for key in looks[0]})
    return pseudo_collate(data)


def predict_plain(model, images) -> list:
    views = look(images, PLAIN)
    with torch.no_grad():
        samples = model.test_step({key: value[0] for key, value in views.items()})
    return [sample.pred_instances for sample in samples]


def predict_tta(model, images, views) -> list:
    tta = InstanceTTAModel(model)
    with torch.no_grad():
        samples = tta.test_step(look(images, views))
    return [sample.pred_instances for sample in samples]


def bitmaps(masks) -> np.ndarray:
    if isinstance(masks, torch.Tensor):
        return masks.numpy()
    return np.array([mask_utils.decode(mask) for mask in masks]).astype(bool)


def assert_same(ours, theirs, num_pixels=0):
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(ours.scores, theirs.scores)
    torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=1e-4, atol=1e-3)
    assert torch.equal(ours.labels, theirs.labels)
    assert type(ours.masks) is type(theirs.masks)
    masks = bitmaps(theirs.masks)
    assert masks.any()
    assert (bitmaps(ours.masks) != masks).sum() <= num_pixels


@every_detector
@pytest.mark.parametrize("masks", MASK_HEADS)
def test_one_plain_view_is_plain_testing(detector, masks, minilvis):
    model, dataset = make_model(minilvis, detector, masks)
    images = images_of(dataset)
    for ours, theirs in zip(
        predict_tta(model, images, PLAIN), predict_plain(model, images), strict=True
    ):
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("detector", "direction", "axes"),
    [
        ("mask-rcnn", "horizontal", 1),
        ("cascade", "horizontal", 1),
        ("htc", "horizontal", 1),
        ("mask-rcnn", "vertical", 0),
        ("mask-rcnn", "diagonal", (0, 1)),
    ],
)
def test_the_flipped_view_of_a_mirrored_image(detector, direction, axes, minilvis):
    """It shows what the image did, so its results are those of the image, mirrored."""
    model, dataset = make_model(minilvis, detector, "specific")
    images = images_of(dataset)
    mirrored = [np.ascontiguousarray(np.flip(image, axes)) for image in images]
    views = [(TINY.image_size, 1.0, direction)]
    for ours, theirs in zip(
        predict_tta(model, mirrored, views), predict_plain(model, images), strict=True
    ):
        size, boxes = TINY.image_size, theirs.bboxes.clone()
        if direction != "vertical":
            boxes[:, 0::2] = size - boxes[:, [2, 0]]
        if direction != "horizontal":
            boxes[:, 1::2] = size - boxes[:, [3, 1]]
        theirs.bboxes = boxes
        along = [axis + 1 for axis in np.atleast_1d(axes).tolist()]
        theirs.masks = theirs.masks.flip(along)
        assert_same(ours, theirs, num_pixels=theirs.masks.sum() * 0.002)


@pytest.mark.parametrize("method", ["sigmoid", "seesaw", "bags"])
def test_any_classifier(method, minilvis):
    model, dataset = make_model(minilvis, method=method)
    images = images_of(dataset)
    for ours, theirs in zip(
        predict_tta(model, images, PLAIN), predict_plain(model, images), strict=True
    ):
        assert_same(ours, theirs)


def test_htc_with_a_semantic_branch(minilvis):
    cfg = make_config("htc", "eql", minilvis)
    extractor = copy.deepcopy(cfg.model.roi_head.mask_roi_extractor)
    extractor.update(featmap_strides=[8], out_channels=64)
    cfg.model.roi_head.update(
        semantic_roi_extractor=extractor,
        semantic_head=dict(
            type="FusedSemanticHead",
            num_ins=5,
            fusion_level=1,
            num_convs=1,
            in_channels=64,
            conv_out_channels=64,
            num_classes=5,
        ),
    )
    model, dataset = build(cfg)
    images = images_of(dataset)
    for ours, theirs in zip(
        predict_tta(model.eval(), images, PLAIN), predict_plain(model, images), strict=True
    ):
        assert_same(ours, theirs)


@every_detector
def test_masks_are_averaged_over_views(detector, minilvis, monkeypatch):
    model, dataset = make_model(minilvis, detector, "specific")
    images = images_of(dataset)
    boxes = torch.tensor([[8.0, 10.0, 50.0, 60.0], [30.0, 5.0, 90.0, 70.0]])
    pasted = []
    head = stages(model.roi_head.mask_head)[-1]
    paste = head.predict_by_feat

    def merge_to_the_same_boxes(tta, data_samples_list):
        samples = [of_image[0] for of_image in data_samples_list]
        for sample in samples:
            sample.pred_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3, 7]))
        return samples

    def see_what_is_pasted(mask_preds, **kwargs):
        pasted.append(torch.cat(list(mask_preds)))
        return paste(mask_preds=mask_preds, **kwargs)

    monkeypatch.setattr(InstanceTTAModel, "merge_preds", merge_to_the_same_boxes)
    monkeypatch.setattr(head, "predict_by_feat", see_what_is_pasted)
    for views in (VIEWS, *([view] for view in VIEWS)):
        predict_tta(model, images, views)
    together, *alone = pasted
    assert together.shape[:2] == (4, 1)
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


def test_boxes_of_all_views_go_through_one_nms(minilvis):
    model, dataset = make_model(minilvis)
    images = images_of(dataset)
    merged = predict_tta(model, images, VIEWS)
    alone = [predict_tta(model, images, [view]) for view in VIEWS]
    for index, ours in enumerate(merged):
        assert len(ours) == 12  # test_cfg.rcnn.max_per_img
        assert (ours.scores[:-1] >= ours.scores[1:]).all()
        overlaps = bbox_overlaps(ours.bboxes, ours.bboxes).fill_diagonal_(0)
        same = ours.labels[:, None] == ours.labels
        assert (overlaps[same] <= model.test_cfg.rcnn.nms.iou_threshold).all()
        everything = torch.cat([results[index].bboxes for results in alone])
        scores = torch.cat([results[index].scores for results in alone])
        for box, score in zip(ours.bboxes, ours.scores, strict=True):
            assert score in scores[(everything - box).abs().amax(dim=1) < 1e-3]
        best = torch.stack([results[index].scores.max() for results in alone]).max()
        assert ours.scores[0] == best
        # More than one view has a say.
        sources = [torch.isin(ours.scores, results[index].scores).sum() for results in alone]
        assert sum(count > 0 for count in sources) > 1


@every_detector
def test_images_without_detections(detector, minilvis):
    model, dataset = make_model(minilvis, detector)
    images = images_of(dataset)
    model.roi_head.test_cfg.score_thr = 1.0
    for ours, theirs in zip(
        predict_tta(model, images, VIEWS), predict_plain(model, images), strict=True
    ):
        assert len(ours) == 0
        assert ours.masks.shape == theirs.masks.shape


def test_a_detector_without_masks(minilvis):
    cfg = make_config("mask-rcnn", "eql", minilvis)
    cfg.model.type = "FasterRCNN"
    cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    model, dataset = build(cfg)
    images = images_of(dataset)
    for ours, theirs in zip(
        predict_tta(model.eval(), images, PLAIN), predict_plain(model, images), strict=True
    ):
        assert len(ours) > 0
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=1e-4, atol=1e-3)
        assert "masks" not in ours


def test_what_it_cannot_augment_is_one_sentence(minilvis):
    cfg = make_config("mask-rcnn", "eql", minilvis)
    cfg.model.roi_head.type = "MaskScoringRoIHead"
    cfg.model.roi_head.mask_iou_head = dict(
        type="MaskIoUHead", num_convs=1, num_fcs=1, in_channels=64, conv_out_channels=8,
        fc_out_channels=8, num_classes=TINY.num_categories,
    )  # fmt: skip
    with pytest.raises(UserError, match="MaskScoringRoIHead"):
        InstanceTTAModel(MODELS.build(cfg.model))
    cfg = get_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    with pytest.raises(UserError, match="RetinaNet"):
        InstanceTTAModel(MODELS.build(cfg.model))


def test_a_pipeline_that_hides_its_flips_is_one_sentence(minilvis):
    model, dataset = make_model(minilvis)
    data = look(images_of(dataset), PLAIN)
    for sample in data["data_samples"][0]:
        sample.pop("flip")
    with pytest.raises(UserError, match="meta_keys"):
        InstanceTTAModel(model).test_step(data)


def test_a_config_without_augmentation_is_one_sentence(tiny_config):
    cfg = tiny_config()
    cfg.pop("tta_pipeline")
    with pytest.raises(UserError, match="has no tta_pipeline; inherit") as error:
        launch.enable_tta(cfg)
    assert "\n" not in str(error.value)


def test_a_wrapped_test_set(tiny_config):
    cfg = tiny_config()
    cfg.test_dataloader.dataset = dict(
        type="RepeatDataset", times=1, dataset=cfg.test_dataloader.dataset
    )
    launch.enable_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline == cfg.tta_pipeline
    assert cfg.model.module.type == "MaskRCNN"
