"""Calibration after training: the papers' equations, and checkpoints that give what was chosen."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmdet_eql.decoupled.calibration import (
    Calibration,
    calibrate_classifier,
    calibrated_scores,
    methods_of,
)
from mmdet_eql.decoupled.calibration_run import _check_checkpoint, read_grid, write_calibrated
from mmdet_eql.decoupled.calibration_search import (
    best_of,
    box_heads,
    compare,
    predict,
    training_images,
)
from mmdet_eql.engine.checkpoint import load_checkpoint_file
from mmdet_eql.engine.checkpoint_fit import check_weights, warn_of_other_model
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError
from tests.conftest import TINY, as_arguments, log_of, minilvis_config, tiny_options
from tests.heads.test_detectors import build, make_config

C, D = 5, 7
SOFTMAX = dict(type="CrossEntropyLoss")
SIGMOID = dict(type="EqualizationLoss", lambda_=0)
OTHERS = [dict(type="EqualizationLossV2"), dict(type="SeesawLoss", num_classes=C)]
COUNTS = torch.tensor([0.0, 1, 8, 300, 40_000], dtype=torch.float64)


def make_head(loss: dict, seed: int = 0, **options):
    init_default_scope("mmdet")
    torch.manual_seed(seed)
    head = MODELS.build(
        dict(
            type="Shared2FCBBoxHead", in_channels=1, roi_feat_size=1, fc_out_channels=D,
            num_classes=C, loss_cls=loss, **options,
        )
    ).eval()  # fmt: skip
    for parameter in head.fc_cls.parameters():
        torch.nn.init.normal_(parameter)
    return head


def naive(method: str, value: float, head, x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The scores of a softmax, proposal by proposal, from the papers' equations."""
    weight, bias = (p.detach().double().numpy() for p in head.fc_cls.parameters())
    rows = []
    for feature in x:
        z = weight @ feature + bias
        if method == "norcal":
            z[:C] = np.log(np.exp(z[:C]) / np.maximum(counts, 1) ** value)
        elif method == "temperature":
            z = z / value
        elif method == "tau-norm":
            norm = np.linalg.norm(weight[:C], axis=1)
            mean = np.prod(norm) ** (1 / C)
            z[:C] = (weight[:C] / ((norm / mean) ** value)[:, None]) @ feature + bias[:C]
        p = np.exp(z) / np.exp(z).sum()
        if method == "logit-adjustment":
            prior = np.maximum(counts, counts[counts > 0].min())
            share = np.exp(z[:C]) / prior**value
            p[:C] = share / share.sum() * (1 - p[C])
        rows.append(p)
    return np.array(rows)


VALUES = dict.fromkeys(("norcal", "logit-adjustment", "tau-norm"), st.floats(0, 1.5))
VALUES["temperature"] = st.floats(0.3, 3)


@pytest.mark.parametrize("method", VALUES)
@settings(deadline=None, max_examples=10)
@given(st.data())
def test_a_softmax_follows_the_equations(method, data):
    value = data.draw(VALUES[method])
    counts = np.array(data.draw(st.lists(st.integers(1, 10**6), min_size=C, max_size=C)))
    head = make_head(SOFTMAX, seed=data.draw(st.integers(0, 9)))
    x = torch.randn(4, D)
    scores = calibrated_scores(
        Calibration(method, value), [head], [head.fc_cls(x)], torch.from_numpy(counts).double()
    )
    wanted = naive(method, value, head, x.double().numpy(), counts.astype(float))
    np.testing.assert_allclose(scores.detach().numpy(), wanted, rtol=2e-4, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(gamma=st.floats(0, 1.5), seed=st.integers(0, 9))
def test_norcal_on_sigmoids_divides_the_odds(gamma, seed):
    """By N^gamma, up to one factor for all: the order of all scores is that of the equation."""
    head = make_head(SIGMOID, seed)
    z = head.fc_cls(torch.randn(6, D)).detach()
    scores = calibrated_scores(Calibration("norcal", gamma), [head], [z], COUNTS)
    counts = COUNTS.clamp(min=1)
    odds = z.double().exp() / (counts / counts.max()) ** gamma
    torch.testing.assert_close(scores[:, :C].double(), odds / (1 + odds), rtol=1e-5, atol=0)
    assert torch.equal(scores[:, -1], torch.zeros(6))


@pytest.mark.parametrize("loss", [SOFTMAX, SIGMOID, *OTHERS], ids=lambda loss: loss["type"])
@pytest.mark.parametrize("num_stages", [1, 3])
def test_the_classifier_gives_the_scores_that_were_chosen(loss, num_stages):
    """Written into each stage of a cascade, which averages the logits."""
    x = [torch.randn(9, D) for _ in range(num_stages)]
    methods = methods_of([make_head(loss)])
    assert {"norcal", "tau-norm"} <= set(methods)
    assert ("logit-adjustment" in methods) == (loss is SOFTMAX)
    assert ("temperature" in methods) == (loss is not SIGMOID)
    for method in {"norcal", "tau-norm", "temperature"} & set(methods):
        calibration = Calibration(method, 0.7)
        heads = [make_head(loss, seed) for seed in range(num_stages)]
        logits = [head.fc_cls(of).detach() for head, of in zip(heads, x, strict=True)]
        chosen = calibrated_scores(calibration, heads, logits, COUNTS)
        before = calibrated_scores(Calibration(), heads, logits, COUNTS)
        for head in heads:
            calibrate_classifier(calibration, head, COUNTS)
        logits = [head.fc_cls(of).detach() for head, of in zip(heads, x, strict=True)]
        after = calibrated_scores(Calibration(), heads, logits, COUNTS)
        torch.testing.assert_close(after, chosen)
        assert not torch.allclose(before, chosen)


def test_tau_normalisation_makes_the_norms_equal():
    head = make_head(SOFTMAX)
    head.fc_cls.weight.data[1] = 0
    background = head.fc_cls.weight[C].clone()
    calibrate_classifier(Calibration("tau-norm", 1.0), head, COUNTS)
    norm = head.fc_cls.weight[:C].norm(dim=1)
    torch.testing.assert_close(norm[[0, 2, 3]], norm[4].expand(3))
    assert norm[1] == 0
    assert torch.equal(head.fc_cls.weight[C], background)


def test_what_does_not_apply():
    normed = make_head(SOFTMAX, cls_predictor_cfg=dict(type="NormedLinear"))
    assert methods_of([normed]) == ["norcal", "logit-adjustment"]
    adjusted = make_head(dict(type="LogitAdjustedSoftmaxLoss"))
    assert "logit-adjustment" not in methods_of([adjusted]), "it is applied already"
    with pytest.raises(UserError, match="linear and normalised layers with a bias"):
        methods_of([make_head(SOFTMAX, cls_predictor_cfg=dict(type="Linear", bias=False))])
    cascade = [make_head(SOFTMAX, reg_class_agnostic=agnostic) for agnostic in (True, False)]
    assert "norcal" in methods_of(cascade)
    with pytest.raises(UserError, match="reg_class_agnostic is False in a cascade"):
        methods_of(cascade[::-1])
    with pytest.raises(UserError, match="two-stage"):
        box_heads(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="cannot be written into a classifier"):
        calibrate_classifier(Calibration("logit-adjustment", 1.0), normed, COUNTS)
    with pytest.raises(UserError, match="must be above 0"):
        calibrate_classifier(Calibration("temperature", 0.0), make_head(SOFTMAX), COUNTS)


def test_the_best_of_each_method():
    grid = [Calibration(), *read_grid(["norcal=0.2,0.4", "tau-norm=1"])]
    values = [0.1, 0.3, 0.3, 0.0]
    files = [SimpleNamespace(metrics={"AP": value, "AR@300": 0.0}) for value in values]
    assert [str(one) for one in best_of(grid, files, "AP")] == ["norcal 0.2", "none", "tau-norm 1"]
    with pytest.raises(UserError, match=r"--by APx: no such metric; choose one of AP\.$"):
        best_of(grid, files, "APx")
    for file in files:
        file.metrics["APr"] = -1
    with pytest.raises(UserError, match="--by APr: nothing in the training images counts for it"):
        best_of(grid, files, "APr")
    with pytest.raises(UserError, match="--images is 0"):
        training_images(None, 0, [])
    for texts, message in ((["x=1"], "no such method"), (["norcal=a"], "no list of numbers")):
        with pytest.raises(UserError, match=message):
            read_grid(texts)


@pytest.mark.parametrize("detector", ["mask-rcnn", "htc"])
def test_the_checkpoint_detects_what_was_chosen(detector, minilvis):
    """One pass of the network gives the detections of the calibrated detectors."""
    model, dataset = build(make_config(detector, "eql", minilvis))
    model.eval()
    for head in box_heads(model):
        torch.nn.init.normal_(head.fc_cls.weight, std=0.3)
    data = pseudo_collate([dataset[index] for index in range(2)])
    count = torch.from_numpy(dataset.class_frequency.image_count).double()
    grid = [Calibration(), Calibration("tau-norm", 0.5), Calibration("norcal", 0.6)]
    predicted = predict(model, [data], grid, count)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    for calibration, of_images in zip(grid, predicted, strict=True):
        model.load_state_dict(kept)
        if calibration.method != "none":
            for head in box_heads(model):
                calibrate_classifier(calibration, head, count)
        with torch.no_grad():
            samples = model.test_step(data)
        for sample, result in zip(samples, of_images, strict=True):
            wanted = sample.pred_instances
            assert sample.img_id == result.image_id and len(wanted) > 5
            np.testing.assert_allclose(result.scores, wanted.scores, rtol=1e-4)
            np.testing.assert_allclose(result.boxes, wanted.bboxes, rtol=1e-4, atol=1e-3)
            assert (result.labels == wanted.labels.numpy()).all()


def test_groups_are_those_of_the_file_or_by_counts(minilvis):
    model, dataset = build(make_config("mask-rcnn", "eql", minilvis))
    names = dataset.metainfo["classes"]
    many = np.full(len(names), 200)  # all are frequent
    frequency = ClassFrequency(many, many, 200, names)
    loader = DataLoader(dataset, batch_size=4, collate_fn=pseudo_collate)
    (of_file,), (of_counts,) = (
        compare(model.eval(), loader, [Calibration()], frequency, by_counts=by_counts)
        for by_counts in (False, True)
    )
    assert of_file.metrics["APf"] == of_counts.metrics["APr"] == -1
    assert of_counts.metrics["APf"] == of_counts.metrics["AP"] == of_file.metrics["AP"] >= 0


def test_counts_of_another_training_set_are_named(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save({"state_dict": {}, "meta": {"dataset_meta": {"image_count": [3, 1]}}}, path)
    for counts in ([3, 1], [3, 2]):
        counted = ClassFrequency(np.array(counts), np.array(counts), 9, ("a", "b"))
        said = log_of(lambda counted=counted: _check_checkpoint(path, counted))
        assert ("a.pth: was trained on other image counts" in said) == (counts == [3, 2])


def test_one_command(minilvis, tmp_path, call_tool):
    config, options = minilvis_config("sigmoid"), tiny_options(minilvis, method="sigmoid")
    options["test_dataloader.dataset.indices"] = 4
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model)
    model.init_weights()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    trained_with = {"runtime_info": {"trained_with": {"model": json.dumps({"type": "A"})}}}
    checkpoint = dict(state_dict=weights, meta=dict(epoch=1), message_hub=trained_with)
    torch.save(checkpoint, tmp_path / "model.pth")

    grid = ["--grid", "norcal=0.5", "tau-norm=1", "--images", 3, "--by", "fixed_AP"]
    arguments = [config, "model.pth", *grid, "--work-dir", "out", *as_arguments(options)]
    result = call_tool("calibrate.py", *arguments, check=True)
    assert "On 3 training images:" in result.stdout
    content = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert [file["results"] for file in content["train"]] == ["none", "norcal 0.5", "tau-norm 1"]
    assert "On 4 test images:" in result.stdout
    assert content["test"][0]["results"] == "none"
    assert {"AP", "fixed_APr", "pooled_AP"} <= content["test"][0]["metrics"].keys()

    written, calibration = tmp_path / "calibrated.pth", Calibration("norcal", 0.5)
    count = torch.arange(TINY.num_categories).double()
    write_calibrated(str(tmp_path / "model.pth"), written, calibration, model, count)
    with pytest.raises(UserError, match=r"calibrated already \(norcal 0\.5\)"):
        _check_checkpoint(str(written), None)
    loaded = load_checkpoint_file(str(written))
    assert loaded["meta"] == dict(epoch=1, calibration="norcal 0.5")
    check_weights(model, loaded, "calibrated.pth")
    logger = MMLogger.get_current_instance()
    said = log_of(lambda: warn_of_other_model({"type": "B"}, loaded, "calibrated.pth", logger))
    assert "calibrated.pth: was trained with model.type = 'A', which is 'B'" in said
    after = loaded["state_dict"]
    assert weights.keys() == after.keys()
    key = "roi_head.bbox_head.fc_cls.bias"
    weights.pop("roi_head.bbox_head.loss_cls.class_frequency")  # not known yet: NaN
    assert [name for name in weights if not torch.equal(weights[name], after[name])] == [key]
