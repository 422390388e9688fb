"""The recorded gradients are those that autograd gives the classifier, whatever head and loss."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from mmdet_eql.engine import GradientRecordHook
from mmdet_eql.engine.gradient_file import load_gradient_record
from mmdet_eql.engine.gradient_record_hook import gradient_sums
from mmdet_eql.engine.launch import build_runner, set_resume
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError
from tests.conftest import start_ranks
from tests.heads.test_detectors import batch_of, build, make_config, stages
from tests.losses import head_table

C, D = 5, 4
#: One of each layout of the logits and each way to the loss.
LOSSES = ("eql-image-labels", "seql", "eqlv2", "seesaw", "bags", "federated", "focal", "cb-softmax")


def runner_of(model, frequency, work_dir, iteration=0, **optim_wrapper):
    """What the hook asks of a runner."""
    dataset = SimpleNamespace(class_frequency=frequency)
    return SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=dataset),
        iter=iteration,
        optim_wrapper=SimpleNamespace(**optim_wrapper),
        work_dir=str(work_dir),
        logger=SimpleNamespace(warning=lambda message: None),
    )


def step(hook, runner, backward) -> None:
    """One iteration."""
    hook.before_train_iter(runner, 0)
    backward()
    hook.after_train_iter(runner, 0)
    runner.iter += 1


class Head(nn.Module):
    """A classifier and its loss, as box heads have them."""

    def __init__(self, loss: str = "EqualizationLoss", classifier: nn.Module | None = None):
        super().__init__()
        self.loss_cls = MODELS.build(dict(type=loss, num_classes=C))
        if hasattr(self.loss_cls, "set_class_frequency"):
            self.loss_cls.set_class_frequency(FREQUENCY.frequency)
        self.fc_cls = classifier or nn.Linear(D, self.loss_cls.get_cls_channels(C))

    def forward(self, features, labels):
        weights = torch.ones(len(labels))
        avg_factor = max(len(labels), 1)
        return self.loss_cls(self.fc_cls(features), labels, weights, avg_factor=avg_factor)


FREQUENCY = ClassFrequency(
    np.array([900, 300, 50, 1, 0]), np.array([900, 300, 50, 1, 0]), 1000, tuple("abcde")
)


def batch(rows=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, D, generator=generator)
    return features, torch.randint(0, C + 1, (rows,), generator=generator)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 2), st.integers(0, 1000))
def test_sums_are_those_of_single_proposals(rows, num_classes, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, D, generator=generator)
    labels = torch.randint(0, num_classes + 1, (rows,), generator=generator)
    layer = nn.Linear(D, num_classes + extra)
    target = torch.rand(rows, num_classes + extra, generator=generator)

    expected = torch.zeros(2, num_classes)
    for x, label, wanted in zip(features, labels, target, strict=True):
        (of_one,) = torch.autograd.grad((layer(x) - wanted).square().sum(), [layer.weight])
        for category in range(num_classes):
            expected[0 if label == category else 1, category] += of_one[category].norm()

    logits = layer(features)
    (gradient,) = torch.autograd.grad((logits - target).square().sum(), [logits])
    found = gradient_sums(gradient, labels, num_classes, features.norm(dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def check_against_autograd(detector, method, minilvis, tmp_path):
    model, dataset = build(make_config(detector, method, minilvis))
    model.train()
    heads = stages(model.roi_head.bbox_head)
    # mmdet's Seesaw has a classifier whose weights have another gradient.
    linear = type(heads[0].fc_cls).forward is nn.Linear.forward
    hooks = {"logits": GradientRecordHook(quantity="logits")}
    if linear:
        hooks["weights"] = GradientRecordHook()
    runners = {}
    for name, hook in hooks.items():
        runners[name] = runner_of(model, dataset.class_frequency, tmp_path / name)
        hook.before_train(runners[name])
        hook.before_train_iter(runners[name], 0)
    losses = model(**batch_of(model, dataset), mode="loss")
    model.parse_losses(losses)[0].backward()
    for name, hook in hooks.items():
        step(hook, runners[name], lambda: None)
        hook.after_train(runners[name])
    assert not any(module._forward_pre_hooks for module in model.modules())

    records = {name: load_gradient_record(tmp_path / name) for name in hooks}
    num_classes = len(dataset.class_frequency)
    assert len(records["logits"].heads) == len(heads)
    for index, head in enumerate(heads):
        positive, negative = (
            records["logits"].positive[0, index],
            records["logits"].negative[0, index],
        )
        # Own proposals only pull a logit up and others only push it down: the bias gets both.
        bias = head.fc_cls.bias.grad[:num_classes]
        np.testing.assert_allclose(negative - positive, bias.numpy(), rtol=1e-3, atol=1e-6)
        assert positive.sum() > 0
        assert negative.sum() > 0
        if linear:
            both = records["weights"].positive[0, index] + records["weights"].negative[0, index]
            norm = head.fc_cls.weight.grad[:num_classes].norm(dim=1)
            assert (norm.numpy() <= both * (1 + 1e-4) + 1e-7).all()


@pytest.mark.parametrize(
    ("head", "loss"), [("RetinaNet", "EFL"), ("FCOS", "EQL"), ("DAB-DETR", "EFL")]
)
def test_dense_and_query_heads(head, loss, tmp_path, monkeypatch):
    """Of all levels, or of all layers of the decoder; taken in blocks."""
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = head_table.build(head, loss)
    model.init_weights()
    head_table.hand_over(model)
    monkeypatch.setattr("mmdet_eql.engine.gradient_record_hook._BLOCK", 7 * head_table.C)
    counts = head_table.COUNTS.numpy()
    frequency = ClassFrequency(counts, counts, 1000, tuple("abcd"))
    runner, hook = runner_of(model, frequency, tmp_path), GradientRecordHook(quantity="logits")
    with pytest.raises(UserError, match=r"bbox_head|query head"):
        refused = GradientRecordHook()
        refused.before_train(runner)
        data = model.data_preprocessor(head_table.batch(False), True)
        model.loss(data["inputs"], data["data_samples"])
    for module in model.modules():
        module._forward_pre_hooks.clear()
    hook.before_train(runner)
    data = model.data_preprocessor(head_table.batch(False), True)
    losses = model.train().loss(data["inputs"], data["data_samples"])
    values = [value for name, value in losses.items() if "loss_cls" in name]
    total = sum(sum(value) if isinstance(value, list) else value for value in values)
    step(hook, runner, total.backward)
    hook.after_train(runner)

    record = load_gradient_record(tmp_path)
    assert record.heads == ("bbox_head",)
    layers = head_table.classifiers(model, tuple(n * head_table.C for n in range(1, 10)))
    bias = sum(layer.bias.grad.view(-1, head_table.C).sum(dim=0) for layer in layers)
    found = record.negative[0, 0] - record.positive[0, 0]
    np.testing.assert_allclose(found, bias.numpy(), rtol=1e-3, atol=1e-6)
    assert record.positive[0, 0, -1] > 0


@pytest.mark.parametrize("method", LOSSES)
def test_every_loss(method, minilvis, tmp_path):
    check_against_autograd("mask-rcnn", method, minilvis, tmp_path)


@pytest.mark.parametrize("detector", ["cascade", "htc"])
def test_every_stage(detector, minilvis, tmp_path):
    check_against_autograd(detector, "eql", minilvis, tmp_path)


def test_a_run_that_is_broken_off_has_the_record_of_an_unbroken_one(tiny_config, tmp_path):
    cfg = tiny_config("eql", max_iters=4)
    cfg.launcher = "none"
    cfg.train_cfg.val_begin = 100  # none
    weights = "roi_head.bbox_head.fc_cls.weight"

    def train(cfg, name):
        cfg = cfg.copy()
        cfg.work_dir = str(tmp_path / name)
        build_runner(cfg).train()
        return torch.load(tmp_path / name / "iter_4.pth", weights_only=False)["state_dict"]

    without = train(cfg, "without")
    assert not (tmp_path / "without" / "gradient_record.npz").exists()
    cfg.default_hooks.gradient_record = dict(type="GradientRecordHook", interval=1)
    with_hook = train(cfg, "run")
    assert torch.equal(with_hook[weights], without[weights])
    unbroken = load_gradient_record(tmp_path / "run")
    assert unbroken.iterations.tolist() == [1, 2, 3, 4]
    assert (np.diff(unbroken.negative.sum(axis=(1, 2))) > 0).all()

    (tmp_path / "run" / "iter_4.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "iter_2.pth"))
    set_resume(cfg, "auto")
    train(cfg, "run")
    resumed = load_gradient_record(tmp_path / "run")
    for name in ("iterations", "positive", "negative"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(unbroken, name))


def record_rank(rank, work_dir):
    torch.distributed.init_process_group("gloo")
    record_batches(work_dir, slice(rank, None, 2))


def record_batches(work_dir, rows):
    torch.manual_seed(0)
    head = Head()
    hook = GradientRecordHook(interval=1)
    runner = runner_of(head, FREQUENCY, work_dir)
    hook.before_train(runner)
    for seed in range(3):
        features, labels = (part[rows] for part in batch(seed=seed))
        step(hook, runner, head(features, labels).backward)
    hook.after_train(runner)


def test_two_ranks_record_what_one_does(tmp_path):
    start_ranks(record_rank, tmp_path / "two")
    record_batches(tmp_path / "one", slice(None))
    one, two = (load_gradient_record(tmp_path / name) for name in ("one", "two"))
    assert two.iterations.tolist() == [1, 2, 3]
    np.testing.assert_allclose(two.positive, one.positive, rtol=1e-5)
    np.testing.assert_allclose(two.negative, one.negative, rtol=1e-5)
    np.testing.assert_allclose(two.ratio(), one.ratio(), rtol=1e-5)


def test_the_scale_of_mixed_precision_is_taken_out_and_overflow_left_out(tmp_path):
    head = Head()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    hooks = []
    for name, loss_scaler in (("scaled", scaler), ("plain", None)):
        hook = GradientRecordHook()
        runner = runner_of(head, FREQUENCY, tmp_path / name, loss_scaler=loss_scaler)
        hook.before_train(runner)
        loss = head(*batch())
        step(hook, runner, (scaler.scale(loss) if loss_scaler else loss).backward)
        hook.after_train(runner)
        hooks.append(hook)
    torch.testing.assert_close(hooks[0].sums, hooks[1].sums)

    before = hooks[0].sums.clone()
    hooks[0].before_train(runner_of(head, FREQUENCY, tmp_path / "overflow"))
    hooks[0].sums.copy_(before)
    step(hooks[0], runner, (head(*batch()) * torch.inf).backward)
    torch.testing.assert_close(hooks[0].sums, before)


def test_a_step_without_proposals_adds_nothing(tmp_path):
    head = Head()
    hook = GradientRecordHook()
    runner = runner_of(head, FREQUENCY, tmp_path)
    hook.before_train(runner)
    step(hook, runner, lambda: None)
    features, labels = batch(rows=0)
    step(hook, runner, head(features, labels).backward)
    assert hook.sums.abs().sum() == 0


def test_what_cannot_be_recorded_is_one_sentence(tmp_path):
    class Cosine(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, nn.functional.normalize(self.weight))

    hook = GradientRecordHook()
    head = nn.ModuleDict({"box": Head(classifier=Cosine(D, C))})
    with pytest.raises(UserError, match=r"model.box is a Cosine.*quantity='logits'"):
        hook.before_train(runner_of(head, FREQUENCY, tmp_path))
    with pytest.raises(UserError, match="no head with 'loss_cls'"):
        hook.before_train(runner_of(nn.Linear(2, 2), FREQUENCY, tmp_path))
    with pytest.raises(UserError, match="quantity is 'bias'"):
        GradientRecordHook(quantity="bias")
    with pytest.raises(UserError, match="interval is 0"):
        GradientRecordHook(interval=0)


def test_a_checkpoint_without_sums_is_told(tmp_path):
    head, warnings = Head(), []
    runner = runner_of(head, FREQUENCY, tmp_path, iteration=7)
    runner.logger.warning = warnings.append
    hook = GradientRecordHook()
    hook.after_load_checkpoint(runner, {"state_dict": {}})
    hook.before_train(runner)
    assert "begins at iteration 7" in warnings[0]

    step(hook, runner, head(*batch()).backward)
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    resumed = GradientRecordHook()
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    assert torch.equal(resumed.sums, hook.sums)
    assert "without its past" in warnings[1]
    assert not Path(tmp_path, "gradient_record.npz").exists()
