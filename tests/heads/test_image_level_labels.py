"""Image-level labels from the annotation file to the gradient on the classifier."""

import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope

from mmdet_eql.losses import FederatedLoss, split_target
from mmdet_eql.utils.errors import UserError
from tests.heads.test_detectors import C, batch_of, build, every_detector, make_config, stages
from tests.losses import head_table


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


def test_federated_loss_teaches_the_verified_categories_of_an_image():
    """Those that occur, here 0 and 1, are taught everywhere, and verified ones in their image."""
    loss = FederatedLoss(num_classes=4, num_chosen=0, image_level_labels=True, reduction="sum")
    loss.set_class_frequency(torch.full((4,), 0.5))
    logits = torch.randn(3, 4, requires_grad=True)
    verified = torch.tensor([[True, False, False, True], [False, True, False, False]])
    image, labels = torch.tensor([1, 0, 0]), torch.tensor([1, 0, 4])
    loss(logits, labels, verified=verified, image=image).backward()
    taught = [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]]
    targets = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    expected = (logits.detach().sigmoid() - targets) * torch.tensor(taught)
    torch.testing.assert_close(logits.grad, expected)


#: A head of each way to call its loss: levels, all levels together, assigned points alone, layers
#: and denoised queries, sampled proposals.
CALLS = [
    ("TOOD", "EQL, image labels"),
    ("FCOS", "federated, image labels"),
    ("YOLOX", "EQL, image labels"),
    ("DINO", "EQL, image labels"),
    ("Sparse R-CNN", "federated, image labels"),
]


@pytest.mark.parametrize(("head", "loss"), CALLS)
def test_samples_of_dense_and_query_heads_have_the_labels_of_their_image(head, loss):
    """Image 0 has category 0 and is known not to have the rare last one; image 1 has category 1, of
    the last one nothing is known."""
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model, data, last = head_table.build(head, loss), head_table.batch(False), head_table.C - 1
    model.init_weights()
    head_table.hand_over(model)
    for index, sample in enumerate(data["data_samples"]):
        sample.gt_instances.labels.fill_(index)
        known = torch.tensor([index] if index else [index, last])
        sample.gt_instances.set_metainfo(dict(verified_labels=known))
    data = model.data_preprocessor(data, True)
    MessageHub.get_current_instance().update_info("epoch", 0)  # for TOOD
    calls = []

    def note(_, args):
        args[0].retain_grad()
        calls.append(args)

    for module in model.modules():
        if getattr(module, "image_level_labels", False):
            module.register_forward_pre_hook(note)
    total, _ = model.parse_losses(model.train()(**data, mode="loss"))
    total.backward()
    labels = torch.cat([split_target(args[1], head_table.C)[0] for args in calls])
    gradient = torch.cat([args[0].grad for args in calls])
    for of_image in (0, 1):
        at_last = gradient[labels == of_image, last]
        assert len(at_last) > 0
        assert (at_last > 0).all() if of_image == 0 else (at_last == 0).all()


def test_a_dense_head_without_labels_is_one_sentence():
    init_default_scope("mmdet")
    model, data = head_table.build("ATSS", "EQL, image labels"), head_table.batch(False)
    head_table.hand_over(model)
    for sample in data["data_samples"]:
        sample.gt_instances = sample.gt_instances.new(metainfo={})
    with pytest.raises(UserError, match=r"image_level_labels: .*'PackLVISInputs'"):
        model(**model.data_preprocessor(data, True), mode="loss")


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
