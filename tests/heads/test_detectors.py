"""Each loss in Mask R-CNN, Cascade Mask R-CNN and HTC: a real step, real predictions."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmdet_eql.engine import ClassFrequencyHook
from mmdet_eql.heads.roi_head import stages_of as stages
from mmdet_eql.losses import connect_losses
from tests.config_checks import read
from tests.conftest import CONFIGS, TINY
from tests.shrinking import shrink, shrink_model

C = TINY.num_categories
DETECTORS = {
    "mask-rcnn": "mask-rcnn_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py",
    "cascade": "cascade-mask-rcnn_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py",
    "htc": "htc_r50_fpn_sigmoid_8xb2-1x_lvis-v1.py",
}
#: Mask R-CNNs of each method; the name of softmax's tells no method.
METHODS = {
    path.stem.split("_")[3]: path
    for folder in ("baselines", "eql", "eqlv2", "seql")
    for path in sorted((CONFIGS / folder).glob("mask-rcnn_r50_fpn_[a-z]*.py"))
    # These have the classifier of another one.
    if not path.stem.split("_")[3].endswith(("rfs", "class-aware"))
}

every_detector = pytest.mark.parametrize("detector", DETECTORS)
every_method = pytest.mark.parametrize("method", METHODS)


def make_config(detector: str, method: str, data_root, **head) -> Config:
    """The config of a detector, with the classifier of a method's Mask R-CNN in every stage."""
    init_default_scope("mmdet")
    cfg = shrink(read(CONFIGS / "baselines" / DETECTORS[detector]), data_root)
    source = copy.deepcopy(read(METHODS[method]))
    shrink_model(source.model)
    classifier = source.model.roi_head.bbox_head
    for stage in stages(cfg.model.roi_head.bbox_head):
        del stage["cls_predictor_cfg"]
        for key in ("type", "loss_cls", "cls_predictor_cfg"):
            if key in classifier:
                stage[key] = copy.deepcopy(classifier[key])
        stage.update(head)
    for stage in stages(cfg.model.train_cfg.rcnn):
        stage.sampler.type = source.model.train_cfg.rcnn.sampler.type
    cfg.train_dataloader.dataset.pipeline[3].prob = 0.0  # mmdet takes a flip for test-time flipping
    cfg.train_dataloader.dataset.pipeline[-1].type = source.train_pipeline[-1].type
    return cfg


def build(cfg: Config):
    """The model, with the frequencies of the training set, and that set."""
    torch.manual_seed(0)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    model = MODELS.build(cfg.model)
    model.init_weights()
    runner = SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=dataset),
        optim_wrapper=None,
        iter=0,
        logger=MMLogger.get_current_instance(),
    )
    connect_losses(model)
    ClassFrequencyHook().before_train(runner)
    return model, dataset


def batch_of(model, dataset, indices=(0, 1), training=True) -> dict:
    batch = pseudo_collate([dataset[index] for index in indices])
    return model.data_preprocessor(batch, training)


def favour(model, label: int) -> None:
    """Make every stage's classifier sure of one category, whatever it sees."""
    for head in stages(model.roi_head.bbox_head):
        head.fc_cls.weight.data.zero_()
        bias = head.fc_cls.bias.data.fill_(-12)
        bias[label] = 12
        # Further outputs tell objects from background (Seesaw, BAGS): raise those that help.
        for column in range(C, len(bias)):
            raised = bias.clone()
            raised[column] = 12
            before, after = head.loss_cls.get_activation(torch.stack([bias, raised]))[:, label]
            if after > before:
                bias.copy_(raised)


@every_detector
@every_method
def test_a_training_step(detector, method, minilvis):
    model, dataset = build(make_config(detector, method, minilvis))
    batch = batch_of(model, dataset)
    model.train()
    losses = model(**batch, mode="loss")
    total, logged = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    for head in stages(model.roi_head.bbox_head):
        gradient = head.fc_cls.weight.grad
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
    accuracies = {key: value for key, value in logged.items() if "acc" in key}
    assert len(accuracies) >= len(stages(model.roi_head.bbox_head))
    assert all(0 <= value <= 100 for value in accuracies.values())


@every_detector
@every_method
def test_the_last_category_can_be_predicted(detector, method, minilvis):
    model, dataset = build(make_config(detector, method, minilvis))
    model.eval()
    favour(model, C - 1)
    with torch.no_grad():
        (sample,) = model(**batch_of(model, dataset, (0,), training=False), mode="predict")
    head = stages(model.roi_head.bbox_head)[-1]
    logits = head.fc_cls.bias[None]
    scores = (
        head.loss_cls.get_activation(logits) if head.custom_activation else logits.softmax(dim=1)
    )
    pred = sample.pred_instances
    assert len(pred) > 0
    assert scores[0, C - 1] > 0.5
    best = pred.scores > 0.5
    assert best.any()
    assert (pred.labels[best] == C - 1).all()
    torch.testing.assert_close(pred.scores[best], scores[0, C - 1].expand(int(best.sum())))
    assert pred.masks.shape[0] == len(pred)


@pytest.mark.parametrize("detector", ["cascade", "htc"])
@every_method
def test_stages_refine_boxes_by_the_predicted_category(detector, method, minilvis):
    """With class-specific boxes, a wrong column would move the boxes of another category."""
    model, dataset = build(make_config(detector, method, minilvis, reg_class_agnostic=False))
    model.eval()
    favour(model, C - 1)
    for head in model.roi_head.bbox_head:
        head.fc_reg.weight.data.zero_()
        head.fc_reg.bias.data.zero_()
    batch = batch_of(model, dataset, (0,), training=False)

    def boxes(moved: int | None):
        for head in model.roi_head.bbox_head[:-1]:
            head.fc_reg.bias.data.zero_()
            if moved is not None:
                head.fc_reg.bias.data.view(C, 4)[moved, 0] = 1.0  # to the right
        with torch.no_grad():
            features = model.extract_feat(batch["inputs"])
            proposals = model.rpn_head.predict(features, batch["data_samples"], rescale=False)
            (result,) = model.roi_head.predict(
                features, proposals, copy.deepcopy(batch["data_samples"]), rescale=False
            )
        return result.bboxes[:, 0].sort().values[:3]

    still = boxes(None)
    assert torch.equal(boxes(C - 2), still)
    assert torch.equal(boxes(0), still)
    assert not torch.allclose(boxes(C - 1), still)


@pytest.mark.parametrize("detector", ["cascade", "htc"])
@every_method
def test_training_refines_background_by_the_predicted_category(
    detector, method, minilvis, monkeypatch
):
    model, dataset = build(make_config(detector, method, minilvis, reg_class_agnostic=False))
    model.train()
    favour(model, C - 1)
    seen = []
    for head in model.roi_head.bbox_head:
        regress = head.regress_by_class

        def spy(priors, label, *args, regress=regress):
            seen.append(label)
            return regress(priors, label, *args)

        monkeypatch.setattr(head, "regress_by_class", spy)
    model(**batch_of(model, dataset), mode="loss")
    labels = torch.cat(seen)
    assert labels.min() >= 0
    assert labels.max() == C - 1
    # Most proposals are background, and take the category that every score is highest for.
    assert (labels == C - 1).float().mean() > 0.5
