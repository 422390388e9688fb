"""Whole runs on tiny MiniLVIS crops: trained, resumed, tested, in two stages, on two ranks."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmdet_eql.classification  # noqa: F401, for ranks, which get the config as it was read
from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.utils.errors import UserError
from tests.classification.conftest import crops_config, tiny_options
from tests.conftest import as_arguments, start_ranks

COUNTS = [24, 15, 10, 6, 4, 3]


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=False)["state_dict"]


def figures(work_dir: Path) -> dict:
    """What the last evaluation in a work_dir logged."""
    path = max(work_dir.glob("*/vis_data/scalars.json"), key=lambda item: item.parent.parent.name)
    return json.loads(path.read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def first_stage(crops, tmp_path_factory) -> Path:
    """The checkpoint of a training with softmax."""
    cfg = Config.fromfile(crops_config("softmax"))
    cfg.merge_from_dict(tiny_options(crops, epochs=1))
    cfg.work_dir = str(tmp_path_factory.mktemp("first_stage"))
    Runner.from_cfg(cfg).train()
    return Path(cfg.work_dir, "epoch_1.pth")


@pytest.mark.parametrize("method", ["seql", "ldam-drw", "progressively-balanced"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(tiny_config, tmp_path, method):
    cfg = tiny_config(method, epochs=3)
    if method == "ldam-drw":
        cfg.model.head.loss_cls.reweight_from = 2
    Runner.from_cfg(cfg).train()
    whole = weights(tmp_path / "work_dir" / "epoch_3.pth")
    assert whole["head.training_counts.class_counts"].tolist() == COUNTS

    cfg = cfg.copy()
    cfg.work_dir = str(tmp_path / "resumed")
    cfg.resume = True
    cfg.load_from = str(tmp_path / "work_dir" / "epoch_2.pth")
    Runner.from_cfg(cfg).train()
    resumed = weights(tmp_path / "resumed" / "epoch_3.pth")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_train_and_test_from_the_command_line(crops, call_tool, tmp_path):
    options = as_arguments(tiny_options(crops))
    work_dir = tmp_path / "run"
    call_tool("train.py", crops_config("softmax"), "--work-dir", work_dir, *options, check=True)
    trained = figures(work_dir)
    assert {"accuracy/top1", "accuracy/top5", "accuracy/medium", "accuracy/few"} <= trained.keys()
    assert "accuracy/many" not in trained  # no class has more than 100 images

    # The checkpoint knows the training counts: the training set need not be there.
    test = call_tool(
        "test.py",
        crops_config("tau-norm"),
        work_dir / "epoch_2.pth",
        "--work-dir",
        tmp_path / "tau",
        *options,
        "train_dataloader.dataset.ann_file=gone.npz",
        "model.head.classifier.tau=0",
        "test_evaluator.classwise=True",
        check=True,
    )
    assert "accuracy/few" in test.stdout
    path = next((tmp_path / "tau").glob("*/*.json"))
    tested = json.loads(path.read_text())
    assert tested["accuracy/top5"] <= 100
    assert sum(name.endswith("_accuracy") for name in tested) == 6


def evaluate_rank(rank, cfg):
    metrics = build_runner(cfg).test()
    Path(cfg.work_dir, f"{rank}.json").write_text(json.dumps(metrics))


def test_two_ranks_evaluate_like_one(tiny_config, first_stage):
    cfg = tiny_config()
    cfg.load_from = str(first_stage)
    # The ranks' shares are not equal.
    cfg.test_dataloader.dataset.indices = 59
    cfg.launcher = "pytorch"
    start_ranks(evaluate_rank, cfg.copy())
    cfg.launcher = "none"
    metrics = build_runner(cfg).test()
    assert sum(name.startswith("accuracy/") for name in metrics) >= 4
    for rank in (0, 1):
        assert json.loads(Path(cfg.work_dir, f"{rank}.json").read_text()) == metrics


def test_retraining_the_classifier_leaves_the_backbone(tiny_config, first_stage, tmp_path):
    first = weights(first_stage)
    for method in ("crt", "lws"):
        cfg = tiny_config(method, epochs=1)
        cfg.work_dir = str(tmp_path / method)
        cfg.load_from = str(first_stage)
        Runner.from_cfg(cfg).train()
        second = weights(tmp_path / method / "epoch_1.pth")
        changed = {name for name in second if name in first and not second[name].equal(first[name])}
        if method == "crt":
            assert changed == {"head.classifier.weight", "head.classifier.bias"}
        else:
            assert not changed
            assert not torch.equal(second["head.classifier.class_scale"], torch.ones(6))


def test_retraining_starts_from_a_new_classifier(tiny_config, first_stage, tmp_path):
    path = tmp_path / "epoch_1.pth"
    checkpoint = torch.load(first_stage, weights_only=False)
    checkpoint["state_dict"]["head.classifier.bias"] += 100
    torch.save(checkpoint, path)
    cfg = tiny_config("crt", epochs=1)
    cfg.work_dir = str(tmp_path / "crt")
    cfg.load_from = str(path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.head.classifier.bias.abs().max() < 10


def retrain_rank(rank, cfg):
    runner = build_runner(cfg)
    runner.train()
    torch.save(bare_model(runner).head.classifier.state_dict(), f"{cfg.work_dir}/{rank}.pth")


def test_ranks_that_draw_different_numbers_retrain_the_same_classifier(tiny_config, first_stage):
    cfg = tiny_config("crt", epochs=1)
    cfg.load_from = str(first_stage)
    cfg.randomness.diff_rank_seed = True
    cfg.launcher = "pytorch"
    start_ranks(retrain_rank, cfg)
    first, second = (torch.load(Path(cfg.work_dir, f"{rank}.pth")) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_stage_without_a_first_is_one_sentence(tiny_config):
    with pytest.raises(UserError, match="starts from a trained checkpoint"):
        Runner.from_cfg(tiny_config("crt")).train()


def test_a_wrong_number_of_classes_is_one_sentence(tiny_config):
    cfg = tiny_config()
    cfg.model.head.num_classes = 7
    with pytest.raises(UserError, match=r"model.head.num_classes is 7.*6 categories"):
        Runner.from_cfg(cfg).train()


def test_a_checkpoint_without_counts_has_its_training_set_counted(
    tiny_config, first_stage, tmp_path
):
    path = tmp_path / "epoch_1.pth"
    checkpoint = torch.load(first_stage, weights_only=False)
    del checkpoint["state_dict"]["head.training_counts.class_counts"]
    torch.save(checkpoint, path)
    cfg = tiny_config()
    cfg.load_from = str(path)
    runner = Runner.from_cfg(cfg)
    assert "accuracy/few" in runner.test()
    assert runner.test_evaluator.metrics[0].class_counts.tolist() == COUNTS
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        cfg.pop(key)
    with pytest.raises(UserError, match="add train_dataloader to the config"):
        Runner.from_cfg(cfg).test()
