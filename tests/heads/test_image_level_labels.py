"""Image-level labels from the annotation file to the gradient on the classifier."""

import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope

from mmdet_eql.losses import EqualizationLoss
from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import C, batch_of, build, every_detector, make_config, stages


def rare_label_verified_absent_from_one(dataset) -> tuple[int, int, int]:
    """A tail category, an image that is verified not to have it, and one of which nothing is
    known."""
    tail = dataset.class_frequency.frequency < 0.1
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    annotated = [i for i, info in enumerate(infos) if info["instances"]]
    for label in tail.nonzero()[0].tolist():
        absent = [i for i in annotated if label in infos[i]["negative_labels"]]
        unknown = [
            i
            for i in annotated
            if label not in infos[i]["negative_labels"] + infos[i]["positive_labels"]
        ]
        if absent and unknown:
            return label, absent[0], unknown[0]
    raise AssertionError("the tiny set has no such category")


def gradient_on_logits(model, batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each stage: gradient (N, C), image of each proposal (N,), labels (N,)."""
    records = []
    for head in stages(model.roi_head.bbox_head):
        forward = head.loss_cls.forward

        def spy(cls_score, labels, *args, forward=forward, **kwargs):
            cls_score.retain_grad()
            records.append((cls_score, labels))
            return forward(cls_score, labels, *args, **kwargs)

        head.loss_cls.forward = spy
        get_targets = head.get_targets

        def count(sampling_results, *args, get_targets=get_targets, **kwargs):
            sizes = torch.tensor([len(result.priors) for result in sampling_results])
            records.append(torch.arange(len(sizes)).repeat_interleave(sizes))
            return get_targets(sampling_results, *args, **kwargs)

        head.get_targets = count
    total, _ = model.parse_losses(model(**batch, mode="loss"))
    total.backward()
    images, scores = records[::2], records[1::2]
    return [
        (score.grad, image, labels) for image, (score, labels) in zip(images, scores, strict=True)
    ]


@every_detector
@pytest.mark.parametrize("switched_on", [True, False])
def test_gradient_is_kept_only_where_absence_is_verified(detector, switched_on, minilvis):
    cfg = make_config(detector, "eql-image-labels", minilvis)
    for stage in stages(cfg.model.roi_head.bbox_head):
        stage.loss_cls.image_level_labels = switched_on
    model, dataset = build(cfg)
    label, absent, unknown = rare_label_verified_absent_from_one(dataset)
    batch = batch_of(model, dataset, (absent, unknown))
    stages_seen = gradient_on_logits(model, batch)
    assert len(stages_seen) == len(stages(model.roi_head.bbox_head))
    for gradient, image, labels in stages_seen:
        foreground = labels < C
        assert (foreground & (image == 0)).any()
        assert (foreground & (image == 1)).any()
        verified = gradient[foreground & (image == 0), label]
        assert (verified > 0).all() if switched_on else (verified == 0).all()
        assert (gradient[foreground & (image == 1), label] == 0).all()
        assert (gradient[~foreground, label] > 0).all()


def test_weight_of_verified_categories_is_one():
    loss = EqualizationLoss(num_classes=3, lambda_=0.1, image_level_labels=True)
    loss.set_class_frequency(torch.tensor([0.5, 0.01, 0.02]))
    logits = torch.zeros(2, 3, requires_grad=True)
    verified = torch.tensor([[False, True, False], [False, False, True]])
    loss(logits, torch.tensor([0, 0]), avg_factor=1, verified=verified).backward()
    expected = torch.tensor([[-0.5, 0.5, 0.0], [-0.5, 0.0, 0.5]])
    torch.testing.assert_close(logits.grad, expected)


def test_labels_survive_geometry(minilvis):
    init_default_scope("mmdet")
    cfg = make_config("mask-rcnn", "eql-image-labels", minilvis)
    cfg.train_dataloader.dataset.pipeline[3:4] = [
        dict(type="RandomFlip", prob=1.0),
        dict(type="RandomCrop", crop_size=(64, 64), allow_negative_crop=True),
    ]
    _, dataset = build(cfg)
    for index in range(5):
        info, sample = dataset.get_data_info(index), dataset[index]["data_samples"]
        assert sample.positive_labels == info["positive_labels"]
        assert sample.negative_labels == info["negative_labels"]
        expected = sorted({*info["positive_labels"], *info["negative_labels"]})
        assert sample.gt_instances.verified_labels.tolist() == expected


def test_mixing_images_keeps_what_is_sure():
    class Stay:
        def __call__(self, results):
            results.pop("mix_results")
            return results

    mix = TRANSFORMS.build(
        dict(type="MixImageLevelLabels", transform=dict(type="RandomFlip", prob=0.0))
    )
    mix.inner = Stay()
    results = dict(
        positive_labels=[1, 2],
        negative_labels=[3, 4, 5],
        mix_results=[
            dict(positive_labels=[3], negative_labels=[4, 5]),
            dict(positive_labels=[], negative_labels=[2, 5]),
        ],
    )
    mixed = mix(results)
    assert mixed["positive_labels"] == [1, 2, 3]
    assert mixed["negative_labels"] == [5]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda cfg: cfg.train_dataloader.dataset.pipeline[-1].update(type="PackDetInputs"),
         ["PackLVISInputs"]),
        (lambda cfg: cfg.model.train_cfg.rcnn.sampler.update(type="RandomSampler"),
         ["ImageLevelLabelSampler"]),
        (lambda cfg: cfg.model.roi_head.bbox_head.update(type="Shared2FCBBoxHead"),
         ["ImageLevelShared2FCBBoxHead"]),
    ],
)  # fmt: skip
def test_a_missing_part_is_one_sentence(minilvis, spoil, words):
    cfg = make_config("mask-rcnn", "eql-image-labels", minilvis)
    spoil(cfg)
    with pytest.raises(UserError) as error:  # of the head when it is built, of others in a step
        model, dataset = build(cfg)
        model(**batch_of(model, dataset), mode="loss")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
