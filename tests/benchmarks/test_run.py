"""run.py with a part that takes microseconds, and the workloads of the parts."""

import json
import sys

import loading
import losses
import lvis_evaluation
import pytest
import run
import starting
import testing
import torch
import training
import training_pipeline
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

TINY_PART = """
from side_by_side import Limit, compare

def measure(quick):
    return compare(
        "tiny part",
        "quick" if quick else "whole",
        {name: lambda: sum(range(10)) for name in ("ours", "rival", "other")},
        {"rival": 0.0},
        repeats=2,
        limit=Limit(bytes=8),
        size=("categories", 80),
    )
"""


@pytest.fixture
def tiny_part(tmp_path, monkeypatch):
    """The only part."""
    (tmp_path / "tiny_part.py").write_text(TINY_PART)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "PARTS", ("tiny_part",))
    yield
    sys.modules.pop("tiny_part", None)


def call(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
    run.main()


def test_one_command_writes_table_figures_and_plot(tiny_part, tmp_path, monkeypatch, capsys):
    files = {name: tmp_path / "out" / f"file.{name}" for name in ("json", "growth")}
    call(monkeypatch, "--quick", "--json", files["json"], "--growth", files["growth"])
    printed = capsys.readouterr().out
    assert "| part " in printed
    assert "tiny part, quick" in printed
    assert f"torch {torch.__version__}" in printed

    figures = json.loads(files["json"].read_text())
    assert list(figures) == ["machine", "comparisons"]
    rival, other = figures["comparisons"]
    assert rival["met"] is True
    assert rival["turns"] == 2
    assert rival["ratio"]["low"] <= rival["ratio"]["median"] <= rival["ratio"]["high"]
    assert rival["seconds"]["ours"] > 0
    assert 0 < rival["reached"] < 1
    assert other["met"] is None
    assert files["growth"].read_bytes().startswith(b"\x89PNG")


def test_a_folder_is_no_file_to_write(tiny_part, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--json", tmp_path)
    assert f"{tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["eql_", ""])
def test_a_training_step_has_every_loss(method):
    config = f"mask-rcnn_r18_fpn_{method}1xb4_minilvis.py"
    model = training.make_model(config, num_classes=30, num_proposals=16)
    batch = model.data_preprocessor(training.make_batch(30), training=True)
    losses = model(**batch, mode="loss")
    assert losses["loss_cls"] > 0
    assert losses["loss_mask"] > 0  # some proposals are foreground
    assert model.roi_head.bbox_head.fc_cls.out_features == (30 if method else 31)


def test_a_recorded_step_records():
    model = training.make_model(training.EQL, num_classes=30, num_proposals=16)
    step = training.with_record(model, training.step_of(model, 30), 30)
    assert (step().sums.sum(dim=2) > 0).all()


def test_the_limit_of_a_mask_head_is_that_of_its_convolutions():
    work = training.make_mask_step("class-agnostic", num_classes=5, num_rois=2)
    cells = 14 * 14
    forward = 4 * cells * 256 * 256 * 9 + cells * 4 * 256 * 256 + 4 * cells * 256
    # Backward takes one product for the weights and one for the input.
    assert training.multiplications(work) == 3 * 2 * forward


@pytest.mark.parametrize("trained", [False, True])
def test_both_kinds_of_nms_find_the_same(trained):
    results = [testing.make_nms(name, 50, 60, trained)() for name in ("ours", "mmdet")]
    assert len(results[0][0]) == 300
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_both_test_steps_find_the_same(monkeypatch):
    monkeypatch.setattr(testing, "ORIGINAL_SIZE", (120, 160))
    models = {name: testing.make_model(name, 40, 30, 101) for name in testing.CONFIG}
    steps = [testing.make_test_step(model, (96, 128), "trained") for model in models.values()]
    (boxes, masks), (expected_boxes, expected_masks) = (step() for step in steps)
    assert len(boxes) > 100
    torch.testing.assert_close(boxes, expected_boxes)
    assert masks == expected_masks

    step, network = testing.time_network(models["ours"], steps[0]).values()
    whole = step()
    assert 0 < network().wall < whole.wall


@pytest.mark.parametrize("name", loading.SETS)
def test_every_start_up_gives_the_same_items(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "NUM_OBJECTS", 50)
    monkeypatch.setattr(loading, "NUM_ITEMS", 40)
    path = str(tmp_path / "annotations.json")
    number = loading.write_annotations(path, 60, 50, 12.7, masks=name == "LVIS v1")
    assert number > 300
    ways = ("first", "cached", "rival")
    reports = {way: loading.measure_here(name, way, path) for way in ways}
    assert len({report["items"] for report in reports.values()}) == 1
    assert len(list((tmp_path / "annotations.json.cache").glob("*.columns"))) == 1
    assert all(report["load"]["wall"] > 0 for report in reports.values())


def test_both_trainings_of_one_iteration_have_the_same_data(tmp_path):
    init_default_scope("mmdet")
    starting.write_configs(tmp_path)
    items = []
    for name in ("ours", "stock"):
        cfg = Config.fromfile(tmp_path / f"{name}.py")
        assert cfg.train_cfg.max_iters == 1
        assert cfg.val_cfg is None
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        infos = [dataset.get_data_info(index)["instances"] for index in range(len(dataset))]
        items.append([[(one["bbox_label"], one["bbox"]) for one in info] for info in infos])
        assert len(dataset[0]["data_samples"].gt_instances.masks) == len(infos[0])
    assert items[0] == items[1]


def test_losses_and_record_run_at_any_size():
    for kind in (*losses.DENSE, *losses.RIVALS):
        losses.step_of(kind, rows=60, num_classes=7)()


def test_both_evaluators_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "NUM_OBJECTS", 50)
    files = lvis_evaluation.make_files(str(tmp_path), 8, "segm", 30, 20)
    (ours,) = lvis_evaluation.load("ours")("segm", *files)
    assert ours.metrics["AP"] > 0


def test_polygons_give_as_many_targets(tmp_path):
    path = training_pipeline.write_image(str(tmp_path))
    loads = [
        training_pipeline.make_load(name, path)
        for name in ("LoadPolygonAnnotations", training_pipeline.RIVAL)
    ]
    ours, theirs = (training_pipeline.with_targets(load)() for load in loads)
    assert ours.shape == theirs.shape
    assert (ours != theirs).float().mean() < 0.05
