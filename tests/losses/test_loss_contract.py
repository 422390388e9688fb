"""What every loss of the package promises to a box head, whatever its equation."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import mmdet_eql.losses  # noqa: F401
from mmdet_eql.utils.errors import UserError

C = 5
FREQUENCY = torch.tensor([0.5, 0.2, 0.01, 0.001, 0.0001], dtype=torch.float64)
COUNTS = torch.tensor([5000, 999, 100, 9, 0])

LOSSES = {
    "eql": dict(type="EqualizationLoss"),
    "eql_decay": dict(
        type="EqualizationLoss", tail_weighting=dict(type="ExponentialDecayTail", a=50, n=1)
    ),
    "eql_v2": dict(type="EqualizationLossV2"),
    "efl": dict(type="EqualizedFocalLoss"),
    "seql": dict(type="SoftmaxEqualizationLoss", lambda_=1.76e-3),
    "focal": dict(type="SigmoidFocalLoss"),
    "focal_below_one": dict(type="SigmoidFocalLoss", gamma=0.5),
    "cb_sigmoid": dict(type="ClassBalancedSigmoidLoss"),
    "cb_softmax": dict(type="ClassBalancedSoftmaxLoss"),
    "federated": dict(type="FederatedLoss", num_chosen=3),
    "bags": dict(type="BalancedGroupSoftmaxLoss"),
    "logit_adjustment": dict(type="LogitAdjustedSoftmaxLoss"),
    "drop": dict(type="DropLoss"),
    "gumbel": dict(type="GumbelOptimizedLoss"),
    "ecm": dict(type="EffectiveClassMarginLoss"),
    "equilibrium": dict(type="EquilibriumLoss"),
    "acsl": dict(type="AdaptiveClassSuppressionLoss"),
}
#: Those on C + 1 outputs.
WITH_BACKGROUND = (
    "eql_v2", "seql", "cb_softmax", "logit_adjustment", "ecm", "equilibrium", "acsl"
)  # fmt: skip


def channels(name: str) -> int:
    if name == "bags":
        return C + 6
    return C + (name in WITH_BACKGROUND)


def make_loss(name: str, hand_over: bool = True):
    loss = MODELS.build(dict(LOSSES[name], num_classes=C))
    if hand_over:
        hand_over_statistics(loss)
    return loss


def hand_over_statistics(loss) -> None:
    if hasattr(loss, "set_class_frequency"):
        loss.set_class_frequency(FREQUENCY)
    if hasattr(loss, "set_class_counts"):
        loss.set_class_counts(COUNTS)


def box_head(name: str, hand_over: bool = True, **kwargs):
    cfg = dict(
        type="Shared2FCBBoxHead",
        in_channels=8,
        fc_out_channels=16,
        roi_feat_size=1,
        num_classes=C,
        loss_cls=LOSSES[name],
    )
    head = MODELS.build(ConfigDict(cfg, **kwargs))
    head.init_weights()
    if hand_over:
        hand_over_statistics(head.loss_cls)
    return head


every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_a_box_head_trains_and_scores_with_it(name):
    torch.manual_seed(0)
    head = box_head(name)
    assert head.custom_cls_channels
    assert head.custom_activation
    assert head.custom_accuracy
    assert head.fc_cls.out_features == channels(name)
    labels = torch.tensor([0, 4, 5, 5, 2, 3])
    rois = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]]).repeat(6, 1)
    features = torch.randn(6, 8, 1, 1)
    cls_score, bbox_pred = head(features)
    losses = head.loss(
        cls_score, bbox_pred, rois, labels, torch.ones(6), torch.zeros(6, 4), torch.zeros(6, 4)
    )
    assert losses["loss_cls"] > 0
    losses["loss_cls"].backward()
    assert head.fc_cls.weight.grad.abs().sum() > 0
    accuracies = {key: value for key, value in losses.items() if "acc" in key}
    assert accuracies
    assert all(0 <= value <= 100 for value in accuracies.values())

    head.eval()
    with torch.no_grad():
        cls_score, bbox_pred = head(features)
        (result,) = head.predict_by_feat(
            rois=(rois,),
            cls_scores=(cls_score,),
            bbox_preds=(bbox_pred,),
            batch_img_metas=[dict(img_shape=(8, 8))],
            rcnn_test_cfg=ConfigDict(
                score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10
            ),
        )
    assert len(result.labels) > 0
    assert result.scores.max() <= 1


@every_loss
def test_a_cascade_refines_boxes_with_it(name):
    torch.manual_seed(0)
    head = box_head(name, reg_class_agnostic=False)
    labels = torch.tensor([0, 4, 5, 5])
    rois = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]]).repeat(4, 1)
    results = dict(
        rois=rois,
        cls_score=torch.randn(4, channels(name)),
        bbox_pred=torch.zeros(4, 4 * C),
        bbox_targets=(labels, None, None, None),
    )
    sampling = [InstanceData(pos_is_gt=torch.zeros(2, dtype=torch.uint8))]
    (refined,) = head.refine_bboxes(sampling, results, [dict(img_shape=(8, 8))])
    assert refined.bboxes.shape == (4, 4)


@every_loss
def test_every_category_can_win_and_scores_are_probabilities(name):
    loss = make_loss(name).eval()
    logits = torch.full((C, channels(name)), -8.0)
    logits[range(C), range(C)] = 40.0
    if name == "bags":
        logits[:, -2] = 8.0
    scores = loss.get_activation(logits)
    assert scores.shape == (C, C + 1)
    assert scores[:, :-1].argmax(1).tolist() == list(range(C))
    assert scores[range(C), range(C)].min() > 0.9
    random = loss.get_activation(torch.randn(20, channels(name)) * 5)
    assert ((random >= 0) & (random <= 1)).all()
    if "soft" in name or name in ("seql", "logit_adjustment", "equilibrium"):
        torch.testing.assert_close(random.sum(1), torch.ones(20))


@every_loss
def test_empty_batch(name):
    loss = make_loss(name)
    logits = torch.zeros(0, channels(name), requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0
    assert logits.grad.shape == logits.shape
    assert loss.get_activation(logits).shape == (0, C + 1)
    assert all(v == 0 for v in loss.get_accuracy(logits, torch.zeros(0, dtype=torch.long)).values())


@every_loss
def test_all_background(name):
    loss = make_loss(name)
    logits = torch.zeros(6, channels(name), requires_grad=True)
    labels = torch.full((6,), C)
    value = loss(logits, labels)
    value.backward()
    assert value > 0
    gradient = logits.grad
    assert (gradient[:, :C] >= 0).all()
    if channels(name) > C:  # there is a background output
        assert (gradient[:, -1] < 0).all()
    loss.get_accuracy(logits, labels)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_low_precision_and_extreme_logits_are_finite(name, dtype, scale):
    torch.manual_seed(0)
    loss = make_loss(name)
    for _ in range(3):
        logits = (torch.randn(32, channels(name)) * scale).to(dtype).requires_grad_()
        value = loss(logits, torch.randint(0, C + 1, (32,)))
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()
        scores = loss.eval().get_activation(logits.detach())
        loss.train()
        assert scores.dtype == dtype
        assert torch.isfinite(scores).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_loss_of_its_logits(name, dtype):
    """Within 1e-5 of the loss in double precision of the same, rounded logits."""
    torch.manual_seed(0)
    loss = make_loss(name)
    exact = copy.deepcopy(loss)
    labels = torch.randint(0, C + 1, (32,))
    classifier = torch.nn.Linear(8, channels(name))
    with torch.autocast("cpu", dtype=dtype):
        logits = classifier(torch.randn(32, 8))
        torch.manual_seed(1)
        value = loss(logits, labels)
    assert logits.dtype == dtype
    value.backward()
    assert torch.isfinite(classifier.weight.grad).all()
    torch.manual_seed(1)
    expected = exact(logits.detach().double(), labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


@every_loss
def test_loss_weight_and_reduction_none(name):
    torch.manual_seed(0)
    logits, labels = torch.randn(8, channels(name)), torch.randint(0, C + 1, (8,))
    values = []
    for weight in (1.0, 2.5):
        loss = MODELS.build(dict(LOSSES[name], num_classes=C, loss_weight=weight))
        hand_over_statistics(loss)
        torch.manual_seed(1)
        values.append(loss(logits, labels, reduction_override="none"))
    assert values[0].shape == (8,)
    torch.testing.assert_close(values[1], 2.5 * values[0])


#: The other one takes means of its own.
with_reductions = pytest.mark.parametrize("name", [name for name in LOSSES if name != "bags"])


@with_reductions
def test_weights_and_reductions(name):
    torch.manual_seed(0)
    loss, weights = make_loss(name).eval(), torch.rand(8)
    logits, labels = torch.randn(8, channels(name)), torch.randint(0, C + 1, (8,))

    def value(*args, **kwargs):
        torch.manual_seed(1)
        return loss(logits, labels, *args, **kwargs)

    each = value(reduction_override="none")
    torch.testing.assert_close(value(weights, avg_factor=3), (each * weights).sum() / 3)
    torch.testing.assert_close(value(), each.mean())
    torch.testing.assert_close(value(reduction_override="sum"), each.sum())


@every_loss
def test_proposals_of_weight_zero_teach_nothing(name):
    torch.manual_seed(0)
    loss = make_loss(name)
    logits = torch.randn(8, channels(name), requires_grad=True)
    weights = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
    loss(logits, torch.randint(0, C + 1, (8,)), weights, avg_factor=4).backward()
    assert (logits.grad[1::2] == 0).all()
    assert (logits.grad[::2] != 0).any(dim=1).sum() >= 3


@every_loss
def test_a_checkpoint_holds_what_was_handed_over(name):
    loss = make_loss(name).eval()
    configured = make_loss(name, hand_over=False).eval()
    in_a_head = box_head(name, hand_over=False).loss_cls.eval()
    logits, labels = torch.randn(8, channels(name)), torch.randint(0, C + 1, (8,))
    torch.manual_seed(1)
    expected = loss(logits, labels)
    for restored in (configured, in_a_head):
        restored.load_state_dict(loss.state_dict())
        torch.testing.assert_close(restored.get_activation(logits), loss.get_activation(logits))
        torch.manual_seed(1)
        assert torch.equal(restored(logits, labels), expected)


def check_checkpoint_in_the_middle(loss, resumed, step):
    """It changes nothing, and evaluation adds nothing; ``step(loss, seed)`` returns a value."""
    step(loss, 0)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert step(resumed, 1) == step(loss, 1)
    before = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        step(loss, 2)
    step(loss.eval(), 2)
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


@every_loss
def test_a_checkpoint_in_the_middle_changes_nothing_and_evaluation_adds_nothing(name):
    def step(loss, seed):
        torch.manual_seed(seed)
        logits = torch.randn(16, channels(name), requires_grad=True)
        return loss(logits, torch.randint(0, C + 1, (16,))).item()

    check_checkpoint_in_the_middle(make_loss(name), make_loss(name, hand_over=False), step)


@every_loss
def test_a_wrong_number_of_logits_is_one_sentence(name):
    loss = make_loss(name)
    width = channels(name)
    for call in (loss, lambda z, _: loss.get_activation(z)):
        with pytest.raises(UserError) as error:
            call(torch.zeros(1, width + 1), torch.tensor([0]))
        assert "\n" not in str(error.value)
        for word in (str(width), str(width + 1), "num_classes"):
            assert word in str(error.value)
    with pytest.raises(UserError, match=rf"{C}.*{C + 2}"):
        loss.get_cls_channels(C + 2)


@every_loss
def test_an_unknown_number_of_categories_is_one_sentence(name):
    with pytest.raises(UserError, match=r"loss_cls\.num_classes"):
        MODELS.build(LOSSES[name])(torch.zeros(1, channels(name)), torch.tensor([0]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eql", "class frequencies"),
        ("eql_decay", "class frequencies"),
        ("seql", "class frequencies"),
        ("federated", "class frequencies"),
        ("drop", "class frequencies"),
        ("gumbel", "class frequencies"),
        ("ecm", "class frequencies"),
        ("acsl", "class frequencies"),
        ("cb_sigmoid", "class counts"),
        ("cb_softmax", "class counts"),
        ("bags", "class counts"),
    ],
)
def test_missing_statistics_are_one_sentence(name, words):
    loss = make_loss(name, hand_over=False)
    with pytest.raises(UserError, match=f"no {words}.*ClassFrequencyHook"):
        loss(torch.zeros(1, channels(name)), torch.tensor([0]))


def test_missing_frequencies_stop_adjusted_scores_but_not_training():
    loss = make_loss("logit_adjustment", hand_over=False)
    loss(torch.zeros(1, C + 1), torch.tensor([0]))
    with pytest.raises(UserError, match="no class frequencies"):
        loss.eval().get_activation(torch.zeros(1, C + 1))


@with_reductions
def test_wrong_reduction_is_one_sentence(name):
    with pytest.raises(UserError, match=r"reduction.*'avg'"):
        MODELS.build(dict(LOSSES[name], reduction="avg"))
