"""RoIs, features and labels are those of the detector's own forward, in every stage."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmdet_eql.decoupled.frozen_detector import FrozenDetector
from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import C, batch_of, build, every_detector, make_config, stages


class Recorder:
    """What a detector computes on its way: per stage RoIs, inputs of the classifier, labels."""

    def __init__(self, model):
        self.rois, self.features, self.labels = [], [], []
        for extractor in stages(model.roi_head.bbox_roi_extractor):
            extractor.register_forward_pre_hook(lambda _, args: self.rois.append(args[1]))
        for head in stages(model.roi_head.bbox_head):
            head.fc_cls.register_forward_pre_hook(lambda _, args: self.features.append(args[0]))
            head.get_targets = self.recording(head.get_targets)

    def recording(self, get_targets):
        def wrapped(*args, **kwargs):
            targets = get_targets(*args, **kwargs)
            self.labels.append(targets[0])
            return targets

        return wrapped


def detectors(detector, minilvis, masks=False):
    """A detector to record, its features, and the training set."""
    model, dataset = build(make_config(detector, "sigmoid", minilvis))
    model.eval()
    if not masks:
        model.roi_head.mask_head = None
    for sampler in stages(model.roi_head.bbox_sampler):
        # The draws of a detector depend on all draws before.
        sampler.random_choice = lambda gallery, num: gallery[:num]
    return model, FrozenDetector(copy.deepcopy(model), "float32"), dataset


def check(images, recorder, number_of_stages):
    assert len(recorder.features) == number_of_stages
    for stage, (rois, features) in enumerate(zip(recorder.rois, recorder.features, strict=True)):
        ours = np.concatenate([image.features[stage] for image in images])
        np.testing.assert_allclose(ours, features.numpy(), rtol=1e-4, atol=1e-5)
        for index, image in enumerate(images):
            boxes = rois[rois[:, 0] == index, 1:]
            np.testing.assert_allclose(image.rois[stage], boxes.numpy(), rtol=1e-4, atol=1e-3)


@every_detector
def test_training(detector, minilvis):
    # Between the stages of HTC, RoIs are drawn for masks.
    model, frozen, dataset = detectors(detector, minilvis, masks=detector == "htc")
    recorder = Recorder(model)
    batch = batch_of(model, dataset)
    with torch.no_grad():
        model(**copy.deepcopy(batch), mode="loss")
    images = frozen.train_features(batch["inputs"], batch["data_samples"])
    check(images, recorder, frozen.stages)
    for stage, labels in enumerate(recorder.labels):
        ours = np.concatenate([image.labels[stage] for image in images])
        assert ours.tolist() == labels.tolist()
        assert set(ours) > {C}


@every_detector
def test_validation(detector, minilvis):
    model, frozen, dataset = detectors(detector, minilvis)
    recorder = Recorder(model)
    batch = batch_of(model, dataset, training=False)
    with torch.no_grad():
        model(**copy.deepcopy(batch), mode="predict")
    images = frozen.val_features(batch["inputs"], batch["data_samples"])
    check(images, recorder, frozen.stages)
    assert [image.labels for image in images] == [[], []]
    sample = batch["data_samples"][1]
    assert tuple(images[1].metainfo["img_shape"]) == sample.img_shape
    assert images[1].metainfo["img_id"] == sample.img_id


def test_the_draw_depends_on_the_image_alone(minilvis):
    model, dataset = build(make_config("cascade", "sigmoid", minilvis))
    frozen = FrozenDetector(model, "float16")
    state = torch.get_rng_state()
    batches = [batch_of(model, dataset, items) for items in ((0, 1), (1,), (0,))]
    torch.set_rng_state(state)
    together, second, first = (
        frozen.train_features(batch["inputs"], batch["data_samples"]) for batch in batches
    )
    assert torch.equal(torch.get_rng_state(), state)
    for image, alone in zip(together, first + second, strict=True):
        assert len(image.rois) == 3
        for stage in range(3):
            assert image.features[stage].dtype == np.float16
            np.testing.assert_allclose(image.rois[stage], alone.rois[stage], atol=1e-2)
            assert image.labels[stage].tolist() == alone.labels[stage].tolist()
    # In every stage others are drawn.
    assert together[0].labels[0].tolist() != together[0].labels[1].tolist()


def test_a_batch_without_rois(minilvis):
    model, dataset = build(make_config("cascade", "sigmoid", minilvis))
    frozen = FrozenDetector(model)
    batch = batch_of(model, dataset, (0,))
    sample = batch["data_samples"][0]
    sample.gt_instances = sample.gt_instances[:0]
    model.train_cfg.rpn_proposal.min_bbox_size = model.test_cfg.rpn.min_bbox_size = 1000
    (image,) = frozen.train_features(batch["inputs"], batch["data_samples"])
    assert [part.shape for part in image.features] == [(0, frozen.dim)] * 3
    assert [part.shape for part in image.labels] == [(0,)] * 3
    (image,) = frozen.val_features(batch["inputs"], batch["data_samples"])
    assert [part.shape for part in image.rois] == [(0, 4)] * 3


REFUSED = {
    "reg_class_agnostic is False in a cascade": (
        "cascade",
        lambda model: model.roi_head.bbox_head[0].update(reg_class_agnostic=False),
    ),
    "pos_weight is 2": ("mask-rcnn", lambda model: model.train_cfg.rcnn.update(pos_weight=2)),
    "sampler: samples by the loss": (
        "mask-rcnn",
        lambda model: model.train_cfg.rcnn.sampler.update(type="OHEMSampler"),
    ),
    "not of DynamicRoIHead": (
        "mask-rcnn",
        lambda model: (
            model.roi_head.update(type="DynamicRoIHead"),
            model.roi_head.bbox_head.update(loss_bbox=ConfigDict(type="SmoothL1Loss")),
            model.train_cfg.rcnn.update(
                dynamic_rcnn=ConfigDict(iou_topk=1, beta_topk=1, update_iter_interval=1)
            ),
        ),
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_features_that_depend_on_the_classifier_are_refused(sentence, minilvis):
    detector, change = REFUSED[sentence]
    cfg = make_config(detector, "sigmoid", minilvis)
    change(cfg.model)
    model, _ = build(cfg)
    with pytest.raises(UserError, match=sentence):
        FrozenDetector(model)


def test_features_of_two_branches_are_refused(minilvis):
    cfg = make_config("mask-rcnn", "sigmoid", minilvis)
    cfg.model.roi_head.bbox_head.update(type="ConvFCBBoxHead", num_shared_fcs=1, num_reg_fcs=1)
    model, dataset = build(cfg)
    batch = batch_of(model, dataset, (0,))
    with pytest.raises(UserError, match="have features of their own"):
        FrozenDetector(model).val_features(batch["inputs"], batch["data_samples"])
