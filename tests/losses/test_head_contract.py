"""Which head works with which loss: a sample of the cells of docs/losses.md, and the sentences that
refuse the others. ``head_table.py`` runs every cell."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.losses import CrossEntropyLoss
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.engine.config_check import check_config
from mmdet_eql.losses import (
    EqualizationLoss,
    EqualizationLossV2,
    EqualizedFocalLoss,
    FederatedLoss,
    SoftmaxEqualizationLoss,
    connect_losses,
    split_target,
)
from mmdet_eql.utils.errors import UserError
from tests.losses import head_table

C = head_table.C
#: Every head and every loss.
SAMPLE = [
    ("Faster R-CNN", "BAGS"),
    ("Faster R-CNN", "GOL"),
    ("Cascade R-CNN", "DropLoss"),
    ("Double-Head", "ECM"),
    ("Double-Head", "LOCE"),
    ("Cascade R-CNN", "ACSL"),
    ("Cascade R-CNN", "EQL, image labels"),
    ("RetinaNet", "federated, image labels"),
    ("Double-Head", "logit adjustment"),
    ("RetinaNet", "EQL v2"),
    ("FCOS", "federated"),
    ("RetinaNet", "EFL"),
    ("ATSS", "EFL"),
    ("GFL", "EQFL"),
    ("TOOD", "EQFL"),
    ("RTMDet", "CB sigmoid"),
    ("RTMDet-Ins", "focal"),
    ("YOLOX", "EQFL"),
    ("Sparse R-CNN", "EQL"),
    ("DAB-DETR", "EQL v2"),
    ("Deformable DETR", "EQL"),
    ("DINO", "EQFL"),
    ("DETR", "CB softmax"),
    ("Mask2Former", "SEQL"),
]


@pytest.fixture(autouse=True)
def mmdet_scope():
    init_default_scope("mmdet")


def documented() -> dict[tuple[str, str], bool]:
    text = head_table.DOCS.read_text(encoding="utf-8")
    lines = text.partition(head_table.BEGIN)[2].partition(head_table.END)[0].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    losses = rows[0][1:]
    return {
        (row[0], loss): cell == "yes"
        for row in rows[2:]
        for loss, cell in zip(losses, row[1:], strict=True)
    }


def test_the_table_has_every_cell():
    table = documented()
    assert set(table) == {(head, loss) for head in head_table.HEADS for loss in head_table.LOSSES}
    assert {head for head, _ in SAMPLE} == set(head_table.HEADS)
    assert {loss for _, loss in SAMPLE} == set(head_table.LOSSES)
    assert all(table[cell] for cell in SAMPLE)


@pytest.mark.parametrize(("head", "loss"), SAMPLE)
def test_a_head_trains_and_predicts(head, loss):
    head_table.check_cell(head, loss)


@pytest.mark.parametrize(
    ("head", "loss", "words"),
    [
        ("Faster R-CNN", "EQFL", ["Shared2FCBBoxHead", "no IoU", "EqualizedFocalLoss"]),
        ("Double-Head", "EQL", ["DoubleConvFCBBoxHead", "5 outputs", "needs 4"]),
        ("RetinaNet", "EQFL", ["RetinaHead", "no IoU"]),
        ("RetinaNet", "SEQL", ["SoftmaxEqualizationLoss", "no sigmoids"]),
        ("Double-Head", "EQL, image labels", ["ImageLevelShared2FCBBoxHead", "=False"]),
        ("Mask2Former", "EQL", ["class_weight", "SoftmaxEqualizationLoss"]),
        ("DETR", "logit adjustment", ["DETRHead", "softmax"]),
        ("Double-Head", "GOL", ["5 outputs", "needs 4"]),
        ("RetinaNet", "DropLoss", ["RetinaHead", "proposals of a box head"]),
        ("Sparse R-CNN", "GOL", ["DIIHead", "proposals of a box head"]),
        ("RetinaNet", "ECM", ["EffectiveClassMarginLoss", "no sigmoids"]),
        ("DETR", "LOCE", ["DETRHead", "proposals of a box head"]),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(head, loss, words):
    assert not documented()[head, loss]
    check_sentence(lambda: head_table.build(head, loss), words)


def check_sentence(call, words) -> None:
    with pytest.raises((UserError, TypeError)) as error:  # a wrong argument is Python's
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def detector(head: str, delete: bool, **loss):
    """A tiny detector whose own loss_cls is overridden or replaced, as a config does it."""
    cfg = Config(dict(model=head_table.stock_model(head).to_dict()))
    part = "model.roi_head.bbox_head" if "roi_head" in cfg.model else "model.bbox_head"
    if head == "Sparse R-CNN":
        part += ".0"
    cfg.merge_from_dict({f"{part}.loss_cls": dict(loss, _delete_=True) if delete else loss})
    model = MODELS.build(cfg.model)
    connect_losses(model)
    return model


@pytest.mark.parametrize(
    ("head", "delete", "loss", "words"),
    [
        # What the stock config leaves.
        ("RetinaNet", False, dict(type="EqualizationLoss"), ["'gamma'", "_delete_=True"]),
        ("RetinaNet", False, dict(type="EqualizationLossV2"), ["gamma=2.0", "_delete_=True"]),
        ("GFL", False, dict(type="EqualizedQualityFocalLoss"), ["'beta'", "_delete_=True"]),
        ("GFL", False, dict(type="ClassBalancedSigmoidLoss"), ["beta", "_delete_=True"]),
        ("Faster R-CNN", False, dict(type="EqualizationLoss"), ["use_sigmoid", "_delete_=True"]),
        ("DINO", False, dict(type="EqualizationLoss", image_level_labels=True),
         ["'gamma'", "_delete_=True"]),
        # What it has to say and the user does not.
        ("DINO", True, dict(type="EqualizationLoss", use_sigmoid=True, image_level_labels=True),
         ["ImageLevelDINOHead", "image_level_labels=False"]),
        ("RetinaNet", True, dict(type="EqualizationLossV2"), ["objectness", "use_sigmoid=True"]),
        ("RetinaNet", True, dict(type="EqualizationLoss"), ["5 outputs", "use_sigmoid=True"]),
        ("RetinaNet", True, dict(type="ClassBalancedSoftmaxLoss"), ["a loss on sigmoids"]),
        ("DINO", True, dict(type="EqualizationLossV2"), ["DINOHead", "use_sigmoid=True"]),
        ("YOLOX", True, dict(type="EqualizationLoss"), ["YOLOXHead", "reduction='sum'"]),
        ("ATSS", True, dict(type="EqualizationLoss", use_sigmoid=True, reduction="sum"),
         ["reduction='mean'"]),
        ("TOOD", True, dict(type="EqualizationLoss", use_sigmoid=True), ["activated=True"]),
        ("FCOS", True, dict(type="EqualizationLoss", use_sigmoid=True, activated=True),
         ["activated=False"]),
        ("FCOS", True, dict(type="EqualizationLoss", use_sigmoid=True, num_classes=9),
         ["9", "4"]),
        # MMDetection trains sigmoids by these, and scores a softmax.
        ("Faster R-CNN", True, dict(type="CrossEntropyLoss", use_sigmoid=True),
         ["CrossEntropyLoss trains 4 sigmoids", "by a softmax", "lambda_=0"]),
        ("Faster R-CNN", True, dict(type="FocalLoss"), ["FocalLoss trains 4", "SigmoidFocalLoss"]),
        ("Sparse R-CNN", True, dict(type="EqualizationLossV2"), ["DIIHead", "use_sigmoid=True"]),
        ("DETR", True, dict(type="SoftmaxEqualizationLoss", lambda_=0.1, class_weight=0.5),
         None),
    ],
)  # fmt: skip
def test_a_stock_config_with_another_type(head, delete, loss, words):
    if words is None:
        assert detector(head, delete, **loss).bbox_head.loss_cls.class_weight == [0.5] * (C + 1)
    else:
        check_sentence(lambda: detector(head, delete, **loss), words)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("RetinaNet", "EqualizedFocalLoss"),
        ("FCOS", "SigmoidFocalLoss"),
        ("YOLOX", "EqualizationLoss"),
        ("YOLOX", "EqualizationLossV2"),
        ("Faster R-CNN", "EqualizationLossV2"),
        ("Faster R-CNN", "SoftmaxEqualizationLoss"),
    ],
)
def test_a_stock_config_with_another_type_alone(head, kind):
    options = dict(lambda_=0.1) if kind == "SoftmaxEqualizationLoss" else {}
    model = detector(head, False, type=kind, **options)
    assert [m.num_classes for m in model.modules() if type(m).__name__ == kind] == [C]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["EqualizationLossV2", "CrossEntropyLoss"], ["bbox_head.0.loss_cls: Equ", "CrossEntropy"]),
        # One output less.
        (["SigmoidFocalLoss", "EqualizationLossV2"], ["bbox_head.0.loss_cls: SigmoidFocalLoss"]),
        (["EquilibriumLoss", "CrossEntropyLoss"], None),
    ],
)
def test_stages_of_a_cascade_that_score_otherwise(kinds, words):
    head = head_table.stock_model("Faster R-CNN").roi_head.bbox_head
    heads = [dict(head, loss_cls=dict(type=kind), num_classes=C) for kind in kinds]
    stages = torch.nn.ModuleList(map(MODELS.build, heads))
    model = torch.nn.ModuleDict({"roi_head": torch.nn.ModuleDict({"bbox_head": stages})})
    if words is None:
        connect_losses(model)
    else:
        check_sentence(lambda: connect_losses(model), words)


def test_an_encoder_that_labels_all_objects_alike_is_refused():
    def connect(kind):
        cfg = Config(dict(model=head_table.stock_model("Deformable DETR").to_dict()))
        cfg.model.update(as_two_stage=True, with_box_refine=True)
        cfg.model.bbox_head.loss_cls = dict(type=kind, use_sigmoid=True)
        connect_losses(MODELS.build(cfg.model))

    check_sentence(lambda: connect("EqualizedFocalLoss"), ["labels all objects 0"])
    connect("EqualizationLoss")


def test_an_unknown_head_of_mmdet_is_refused_and_a_derived_one_is_not():
    from mmdet.models.dense_heads import FSAFHead, RetinaHead

    class OwnHead(RetinaHead):
        pass

    def model_with(kind):
        head = kind.__new__(kind)
        torch.nn.Module.__init__(head)
        head.num_classes = head.cls_out_channels = C
        head.loss_cls = EqualizationLoss()
        return torch.nn.Sequential(head)

    connect_losses(model_with(OwnHead))
    check_sentence(lambda: connect_losses(model_with(FSAFHead)), ["FSAFHead", "ATSSHead"])


def test_the_launcher_refuses_it_before_training(tiny_config):
    cfg = tiny_config()
    cfg.model.roi_head.bbox_head.type = "DoubleConvFCBBoxHead"
    cfg.model.roi_head.bbox_head.update(num_convs=1, num_fcs=1)
    cfg.model.roi_head.bbox_head.pop("cls_predictor_cfg", None)
    check_sentence(
        lambda: check_config(cfg), ["model.roi_head.bbox_head.loss_cls", "DoubleConvFCBBoxHead"]
    )


# --- what the heads hand over


def targets():
    """Logits of 6 rows, their labels, and qualities of the positives."""
    torch.manual_seed(0)
    logits = torch.randn(6, C, dtype=torch.float64)
    labels = torch.tensor([0, 3, C, 2, 3, C])
    quality = torch.rand(6, dtype=torch.float64) * (labels < C)
    one_hot = F.one_hot(labels, C + 1)[:, :C] * quality[:, None]
    return logits, labels, quality, one_hot


def test_targets_in_three_forms_are_the_same():
    _, labels, quality, one_hot = targets()
    assert split_target(labels, C) == (labels, None)
    assert split_target((labels, quality), C) == (labels, quality)
    for value, expected in zip(split_target(one_hot, C), (labels, quality), strict=True):
        torch.testing.assert_close(value, expected)
    assert split_target(torch.zeros(2, C), C)[0].tolist() == [C, C]


@pytest.mark.parametrize("kind", [EqualizationLoss, FederatedLoss, EqualizationLossV2])
def test_without_protection_it_is_the_cross_entropy_of_the_head(kind):
    """As YOLOX has it: the IoU is the target of a positive, the loss is a sum."""
    logits, _, _, one_hot = targets()
    options = {
        EqualizationLoss: dict(lambda_=0),
        FederatedLoss: dict(num_chosen=C, freq_power=0),
        EqualizationLossV2: {},
    }
    loss = kind(C, use_sigmoid=True, reduction="sum", **options[kind])
    if kind is FederatedLoss:
        loss.set_class_frequency(head_table.FREQUENCY)
    stock = CrossEntropyLoss(use_sigmoid=True, reduction="sum")
    logits, one_hot = logits.float(), one_hot.float()  # mmdet's computes in float32
    torch.testing.assert_close(loss(logits, one_hot), stock(logits, one_hot))


def test_eql_with_a_quality_is_its_equation():
    """w_j = 1 - E(r) T(f_j) for other categories, 1 at the label, whose target is the quality."""
    logits, labels, quality, _ = targets()
    loss = EqualizationLoss(C, lambda_=0.1, reduction="sum")
    loss.set_class_frequency(head_table.FREQUENCY)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(6):
        for j in range(C):
            p = logits[row, j].sigmoid()
            own = labels[row] == j
            y = quality[row] if own else 0.0
            in_tail = head_table.FREQUENCY[j] < 0.1
            w = 0.0 if labels[row] < C and in_tail and not own else 1.0
            expected -= w * (y * p.log() + (1 - y) * (1 - p).log())
    value = loss(logits, (labels, quality), torch.ones(6))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [EqualizationLoss, EqualizationLossV2, EqualizedFocalLoss])
def test_probabilities_have_the_loss_of_their_logits(kind):
    logits, labels, _, _ = targets()
    values, gradients = [], []
    for activated in (False, True):
        loss = kind(C, activated=activated, use_sigmoid=True)
        if kind is EqualizationLoss:
            loss.set_class_frequency(head_table.FREQUENCY)
        z = logits.clone().requires_grad_()
        value = loss(z.sigmoid() if activated else z, labels)
        values.append(value)
        gradients.append(torch.autograd.grad(value, z)[0])
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    extreme = torch.tensor([[0.0, 1.0, 1.0, 1e-30]], requires_grad=True)
    loss(extreme, torch.tensor([0])).backward()
    assert torch.isfinite(extreme.grad).all()


def test_class_weights_of_a_softmax_head_are_those_of_mmdet():
    logits, labels, _, _ = targets()
    logits = torch.cat([logits, logits[:, :1]], dim=1)
    weights = [1.0, 0.5, 2.0, 1.0, 0.1]
    loss = SoftmaxEqualizationLoss(C, lambda_=0, class_weight=weights)
    stock = CrossEntropyLoss(class_weight=weights)
    rows = torch.ones(6, dtype=torch.int64)  # as Mask2Former gives them
    value = loss(logits, labels, rows, avg_factor=2.5)
    torch.testing.assert_close(value, stock(logits, labels, rows, avg_factor=2.5))


def test_weights_of_another_shape_are_one_sentence():
    logits, labels, _, _ = targets()
    loss = EqualizationLoss(C, lambda_=0)
    check_sentence(lambda: loss(logits, labels, torch.ones(6, C)), ["(6, 4)", "(6,)"])


def test_deferred_gradients_are_added_once_an_iteration():
    """A head calls its loss for each level; the weights are those of the last iteration."""
    logits, labels, _, _ = targets()
    at_once, deferred = EqualizedFocalLoss(C), EqualizedFocalLoss(C)
    deferred.defer()
    before = deferred.focusing()
    for rows in (slice(3), slice(3, 6)):
        deferred(logits[rows], labels[rows])
        assert torch.equal(deferred.focusing(), before)
        assert deferred.pos_grad.sum() == 0
    deferred.add_deferred()
    at_once(logits, labels)
    torch.testing.assert_close(deferred.pos_grad, at_once.pos_grad)
    torch.testing.assert_close(deferred.neg_grad, at_once.neg_grad)
    assert deferred.num_seen == at_once.num_seen == 6
    deferred.add_deferred()  # of an iteration in which the head did not call its loss
    assert deferred.num_seen == 6
