"""EqualizationLossV2 against the equations of the paper, step by step, and MMDetection's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import EQLV2Loss
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from mmdet_eql.losses import EqualizationLossV2
from mmdet_eql.utils.errors import UserError
from tests.conftest import start_ranks

GAMMA, MU, ALPHA = 12.0, 0.8, 4.0


class Simulation:
    """The method in NumPy, float64, by loops: one object is one training."""

    def __init__(self, num_classes):
        self.pos, self.neg, self.started = np.zeros(num_classes), np.zeros(num_classes), False

    def weights(self, j):
        if not self.started or j == len(self.pos):
            return 1.0, 1.0
        ratio = self.pos[j] / (self.neg[j] + 1e-10)
        # exp() overflows for large ratios only towards f = 1 / (1 + 0).
        negative = 1 / (1 + math.exp(-GAMMA * (ratio - MU))) if ratio < 50 else 1.0
        return 1 + ALPHA * (1 - negative), negative

    def step(self, cls_score, labels, update=True):
        """Loss summed over the proposals, and its gradient."""
        num_rows, width = cls_score.shape
        value, gradient = 0.0, np.zeros((num_rows, width))
        pos, neg = np.zeros(width), np.zeros(width)
        for r in range(num_rows):
            for j in range(width):
                q, w = self.weights(j)
                z = cls_score[r, j]
                p = 1 / (1 + math.exp(-z)) if z > -700 else 0.0
                log_p = -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))
                if labels[r] == j:
                    value -= q * log_p
                    gradient[r, j] = q * (p - 1)
                    pos[j] += abs(gradient[r, j])
                else:
                    value -= w * (log_p - z)
                    gradient[r, j] = w * p
                    neg[j] += abs(gradient[r, j])
        if update:
            self.pos, self.neg = self.pos + pos[:-1], self.neg + neg[:-1]
            self.started = self.started or num_rows > 0
        return value, gradient


def batches(num_steps, num_classes, seed=0, num_rows=16):
    """Random logits and long-tailed labels; some batches are background only."""
    rng = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, num_classes + 1) ** 2
    for step in range(num_steps):
        labels = rng.choice(num_classes, size=num_rows, p=share / share.sum())
        labels[rng.uniform(size=num_rows) < (1.0 if step % 10 == 3 else 0.6)] = num_classes
        cls_score = rng.normal(-2, 2, size=(num_rows, num_classes + 1))
        yield cls_score, labels


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_classes=st.integers(1, 6),
    scale=st.sampled_from([0.1, 3, 30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_equal_the_equation(num_rows, num_classes, scale, seed):
    rng = np.random.default_rng(seed)
    loss, simulation = EqualizationLossV2(num_classes, reduction="sum"), Simulation(num_classes)
    for _ in range(3):
        cls_score = rng.normal(scale=scale, size=(num_rows, num_classes + 1))
        labels = rng.integers(0, num_classes + 1, size=num_rows)
        logits = torch.tensor(cls_score, requires_grad=True)
        value = loss(logits, torch.as_tensor(labels))
        value.backward()
        expected, gradient = simulation.step(cls_score, labels)
        np.testing.assert_allclose(value.item(), expected, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_fifty_steps_equal_the_simulation():
    loss, simulation = EqualizationLossV2(num_classes=8), Simulation(8)
    for cls_score, labels in batches(50, 8):
        logits = torch.tensor(cls_score, requires_grad=True)
        value = loss(logits, torch.as_tensor(labels))
        value.backward()
        expected, gradient = simulation.step(cls_score, labels)
        np.testing.assert_allclose(value.item(), expected / len(labels), rtol=1e-9)
        np.testing.assert_allclose(logits.grad.numpy(), gradient / len(labels), rtol=1e-9)
        np.testing.assert_allclose(loss.pos_grad.numpy(), simulation.pos, rtol=1e-9)
        np.testing.assert_allclose(loss.neg_grad.numpy(), simulation.neg, rtol=1e-9)
    positive, negative = loss.class_weights()
    # The test would prove little if the weights had stayed where they started.
    assert negative[:-1].min() < 0.02 < 0.9 < negative[:-1].max()
    assert positive[:-1].max() > 4.9
    assert (positive[-1], negative[-1]) == (1, 1)
    assert loss.num_seen == 50 * 16


def test_float32_follows_the_simulation():
    loss, simulation = EqualizationLossV2(num_classes=8), Simulation(8)
    for cls_score, labels in batches(50, 8):
        loss(torch.tensor(cls_score, dtype=torch.float32), torch.as_tensor(labels))
        simulation.step(cls_score, labels)
    np.testing.assert_allclose(loss.pos_grad.numpy(), simulation.pos, rtol=1e-5)
    np.testing.assert_allclose(loss.neg_grad.numpy(), simulation.neg, rtol=1e-5)


def test_the_sums_are_the_gradients_of_the_loss():
    """What is summed is what autograd gives, with proposal weights too."""
    torch.manual_seed(0)
    loss = EqualizationLossV2(num_classes=4, reduction="sum")
    for _ in range(3):
        before = loss.pos_grad.clone(), loss.neg_grad.clone()
        logits = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
        labels = torch.randint(0, 5, (12,))
        weights = torch.rand(12, dtype=torch.float64)
        loss(logits, labels, weights).backward()
        up = -logits.grad.clamp(max=0).sum(0)[:-1]
        down = logits.grad.clamp(min=0).sum(0)[:-1]
        torch.testing.assert_close(loss.pos_grad - before[0], up)
        torch.testing.assert_close(loss.neg_grad - before[1], down)


def test_accumulated_gradients_update_the_sums_per_forward_pass():
    """Two halves of a batch are two steps: the second is weighed by the first's sums."""
    (cls_score, labels), *_ = batches(1, 5)
    logits, labels = torch.tensor(cls_score), torch.as_tensor(labels)
    loss, simulation = EqualizationLossV2(num_classes=5), Simulation(5)
    for half in (slice(0, 8), slice(8, 16)):
        loss(logits[half], labels[half])
        simulation.step(cls_score[half], labels[half].numpy())
    np.testing.assert_allclose(loss.neg_grad.numpy(), simulation.neg, rtol=1e-9)
    whole = EqualizationLossV2(num_classes=5)
    whole(logits, labels)
    assert not torch.allclose(whole.neg_grad, loss.neg_grad)


def test_an_empty_batch_is_no_first_step():
    loss = EqualizationLossV2(num_classes=2)
    loss(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long))
    assert all((weights == 1).all() for weights in loss.class_weights())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_loss_and_the_sums_of_its_logits(dtype):
    torch.manual_seed(0)
    loss, exact = EqualizationLossV2(num_classes=3), EqualizationLossV2(num_classes=3)
    classifier = torch.nn.Linear(8, 4)
    for _ in range(3):
        labels = torch.randint(0, 4, (64,))
        with torch.autocast("cpu", dtype=dtype):
            logits = classifier(torch.randn(64, 8))
            value = loss(logits, labels)
        assert logits.dtype == dtype
        assert value.dtype == torch.float32
        value.backward()
        assert torch.isfinite(classifier.weight.grad).all()
        torch.testing.assert_close(value, exact(logits.detach().double(), labels).float())
    torch.testing.assert_close(loss.neg_grad, exact.neg_grad, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.pos_grad, exact.pos_grad, rtol=1e-5, atol=0)


def test_scores_are_sigmoids_times_objectness():
    logits = torch.tensor([[0.0, 2.0, -1.0], [3.0, -1.0, 4.0]])
    p = logits.sigmoid()
    with_objectness = EqualizationLossV2(num_classes=2).get_activation(logits)
    torch.testing.assert_close(with_objectness[:, :2], p[:, :2] * (1 - p[:, 2:]))
    torch.testing.assert_close(with_objectness[:, 2], p[:, 2])
    plain = EqualizationLossV2(num_classes=2, test_with_objectness=False).get_activation(logits)
    torch.testing.assert_close(plain, p)
    # The last category can be predicted, and the logits are left as they were.
    assert with_objectness[:, :-1].argmax(1).tolist() == [1, 0]
    torch.testing.assert_close(logits.sigmoid(), p)


def test_accuracy():
    loss = EqualizationLossV2(num_classes=2)
    logits = torch.tensor([[2.0, 1.0, -1.0], [2.0, 1.0, 1.0], [2.0, 1.0, -1.0], [0.0, 1.0, 1.0]])
    accuracy = loss.get_accuracy(logits, torch.tensor([0, 1, 2, 2]))
    assert accuracy["acc_objectness"] == 50
    assert accuracy["acc_classes"] == 50


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EqualizationLossV2(gamma=-1), ["gamma", "-1"]),
        (lambda: EqualizationLossV2(alpha=math.nan), ["alpha", "nan"]),
        (lambda: EqualizationLossV2(mu=math.inf), ["mu", "inf"]),
    ],
)
def test_wrong_use_is_one_sentence(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# Two ranks -----------------------------------------------------------------------------------


def train_rank(rank, folder):
    torch.distributed.init_process_group("gloo")
    ours, theirs = EqualizationLossV2(num_classes=6), EQLV2Loss(num_classes=6)
    for cls_score, labels in batches(20, 6):
        rows = slice(rank, None, 2)
        logits, labels = torch.tensor(cls_score[rows]), torch.as_tensor(labels[rows])
        ours(logits, labels)
        theirs(logits, labels)
    torch.save([ours.neg_grad, theirs.neg_grad], folder / f"{rank}.pth")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Our sum and theirs after 20 steps of two processes with half of each batch, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(train_rank, folder)
    return [torch.load(folder / f"{rank}.pth") for rank in (0, 1)]


# What MMDetection's EQLV2Loss does otherwise (docs/eql-v2-and-mmdetection.md) ------------------


def box_head(**cfg):
    return MODELS.build(
        ConfigDict(
            type="Shared2FCBBoxHead",
            in_channels=8,
            fc_out_channels=16,
            roi_feat_size=1,
            num_classes=4,
            reg_class_agnostic=True,
            **cfg,
        )
    )


def scores_of(head, logits):
    rois = torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]]).repeat(len(logits), 1)
    (result,) = head.predict_by_feat(
        rois=(rois,),
        cls_scores=(logits,),
        bbox_preds=(torch.zeros(len(logits), 4),),
        batch_img_metas=[dict(img_shape=(8, 8))],
    )
    return result.scores


def test_fault_1_scores_are_a_softmax_in_theirs_and_sigmoids_in_ours():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    ours = box_head(loss_cls=dict(type="EqualizationLossV2"))
    theirs = box_head(loss_cls=dict(type="EQLV2Loss", num_classes=4))
    p = logits.sigmoid()
    expected = torch.cat([p[:, :4] * (1 - p[:, 4:]), p[:, 4:]], dim=1)
    torch.testing.assert_close(scores_of(ours, logits), expected)
    # Their own get_activation agrees, but the head never calls it.
    torch.testing.assert_close(theirs.loss_cls.get_activation(logits), expected)
    assert not theirs.custom_cls_channels
    torch.testing.assert_close(scores_of(theirs, logits), logits.softmax(1))


def test_fault_2_their_ranks_drift_apart_unless_a_flag_is_set(two_ranks):
    (ours, theirs), (ours_of_second, theirs_of_second) = two_ranks
    assert torch.equal(ours, ours_of_second)
    assert (theirs / theirs_of_second - 1).abs().max() > 0.01


def test_fault_3_their_classifier_starts_at_one_half():
    """EQLV2Loss comes without an initialisation; PriorLinear sets all C + 1 outputs, as the authors
    do."""
    ours = box_head(
        cls_predictor_cfg=dict(type="PriorLinear"), loss_cls=dict(type="EqualizationLossV2")
    )
    theirs = box_head(loss_cls=dict(type="EQLV2Loss", num_classes=4))
    for head, prior in ((ours, 0.001), (theirs, 0.5)):
        head.init_weights()
        assert head.fc_cls.out_features == 5
        assert head.fc_cls.bias.sigmoid().tolist() == pytest.approx([prior] * 5)


def test_fault_4_proposal_weights_and_avg_factor_are_ignored_in_theirs():
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 4, 4])
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    theirs = EQLV2Loss(num_classes=4)(logits, labels, weights, avg_factor=1)
    torch.testing.assert_close(theirs, EQLV2Loss(num_classes=4)(logits, labels))
    ours = EqualizationLossV2(num_classes=4)(logits, labels, weights, avg_factor=1)
    torch.testing.assert_close(ours, EqualizationLossV2(num_classes=4)(logits[:1], labels[:1]))


def test_fault_5_validation_changes_their_sums():
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 4, 4])
    ours, theirs = EqualizationLossV2(num_classes=4).eval(), EQLV2Loss(num_classes=4).eval()
    with torch.no_grad():
        ours(logits, labels)
        theirs(logits, labels)
    assert (ours.neg_grad == 0).all()
    assert (theirs.neg_grad > 0).all()


def test_fault_6_their_sums_lose_small_terms():
    """In half precision they are rounded once a step, and in float32 they stop to grow."""
    labels = torch.full((1024,), 4)
    logits = torch.full((1024, 5), -6.0, dtype=torch.bfloat16)
    expected = 1024 * torch.sigmoid(torch.tensor(-6.0)).item()
    ours, theirs = EqualizationLossV2(num_classes=4), EQLV2Loss(num_classes=4)
    ours(logits, labels)
    theirs(logits, labels)
    assert ours.neg_grad[0].item() == pytest.approx(expected, rel=1e-5)
    assert abs(theirs.neg_grad[0].item() / expected - 1) > 1e-4

    # With fixed weights, so that the sums alone differ.
    ours, theirs = EqualizationLossV2(num_classes=4, gamma=0), EQLV2Loss(num_classes=4, gamma=0)
    for loss in (ours, theirs):
        loss.neg_grad += 2.0**25
        loss(torch.zeros(2, 5), torch.full((2,), 4))
    assert ours.neg_grad[0] == 2.0**25 + 1
    assert theirs.neg_grad[0] == 2.0**25


def test_fault_7_their_number_of_classes_is_that_of_lvis_unless_set():
    with pytest.raises(RuntimeError, match="size"):
        box_head(loss_cls=dict(type="EQLV2Loss")).loss_cls(torch.zeros(2, 5), torch.tensor([0, 4]))
    ours = box_head(loss_cls=dict(type="EqualizationLossV2"))
    assert ours.loss_cls(torch.zeros(2, 5), torch.tensor([0, 4])) > 0


def test_without_these_faults_both_agree():
    """One process, float32, equal proposal weights: the loss and the sums are the same."""
    ours, theirs = EqualizationLossV2(num_classes=8), EQLV2Loss(num_classes=8)
    for cls_score, labels in batches(50, 8):
        logits, labels = torch.tensor(cls_score, dtype=torch.float32), torch.as_tensor(labels)
        torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    torch.testing.assert_close(ours.pos_grad.float(), theirs.pos_grad)
    torch.testing.assert_close(ours.neg_grad.float(), theirs.neg_grad)
