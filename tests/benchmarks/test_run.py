"""run.py with a part that takes microseconds, and the workloads of the parts."""

import json
import sys

import gradient_record
import many_categories
import multiclass_nms
import pytest
import run
import start_up
import test_step
import torch
import training_step

TINY_PART = """
from side_by_side import Target, compare, growth

def measure(quick):
    return compare(
        "tiny part",
        "quick" if quick else "whole",
        lambda: sum(range(10)),
        {"rival": lambda: sum(range(20)), "other": lambda: sum(range(30))},
        {"rival": Target(ratio=0.0)},
        repeats=2,
    )

def measure_growth(quick):
    make = lambda name, number: (lambda: sum(range(number)))
    return growth("tiny part", make, ["ours"], numbers=(80, 400), repeats=1)
"""


@pytest.fixture
def tiny_part(tmp_path, monkeypatch):
    """Among the parts: a tiny one, and one whose module is not there."""
    (tmp_path / "tiny_part.py").write_text(TINY_PART)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "PARTS", {"tiny": "tiny_part", "gone": "no_such_module"})
    yield
    sys.modules.pop("tiny_part", None)


def call(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
    run.main()


def test_one_command_writes_table_figures_and_plot(tiny_part, tmp_path, monkeypatch, capsys):
    files = {name: tmp_path / "out" / f"file.{name}" for name in ("markdown", "json", "growth")}
    arguments = [word for name, path in files.items() for word in (f"--{name}", path)]
    call(monkeypatch, "--quick", *arguments)

    printed = capsys.readouterr().out
    assert "gone is left out: there is no module 'no_such_module'." in printed
    assert "tiny part, quick" in printed
    assert f"PyTorch {torch.__version__}" in printed

    markdown = files["markdown"].read_text()
    assert markdown.startswith("| part ")
    assert f"PyTorch {torch.__version__}" in markdown

    figures = json.loads(files["json"].read_text())
    assert list(figures) == ["machine", "comparisons", "growth"]
    rival, other = figures["comparisons"]
    assert rival["met"] is True
    assert rival["turns"] == 2
    assert rival["ratio"]["low"] <= rival["ratio"]["median"] <= rival["ratio"]["high"]
    assert rival["seconds"]["ours"] > 0
    assert other["met"] is None
    assert [point["num_classes"] for point in figures["growth"]] == [80, 400]
    assert files["growth"].read_bytes().startswith(b"\x89PNG")


def test_parts_are_chosen(tiny_part, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--parts", "gone")
    assert "none of the parts can be measured here" in capsys.readouterr().err


def test_a_folder_is_no_file_to_write(tiny_part, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "--json", tmp_path)
    assert f"{tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["eql_", ""])
def test_a_training_step_has_every_loss(method):
    config = f"mask-rcnn_r18_fpn_{method}1xb4_minilvis.py"
    model = training_step.make_model(config, num_classes=30, num_proposals=16)
    batch = model.data_preprocessor(training_step.make_batch(30), training=True)
    losses = model(**batch, mode="loss")
    assert losses["loss_cls"] > 0
    assert losses["loss_mask"] > 0  # some proposals are foreground
    assert model.roi_head.bbox_head.fc_cls.out_features == (30 if method else 31)


@pytest.mark.parametrize("trained", [False, True])
def test_both_kinds_of_nms_find_the_same(trained):
    results = [
        multiclass_nms.make_workload(name, num_classes=50, num_proposals=60, trained=trained)()
        for name in ("ours", "mmdet")
    ]
    assert len(results[0][0]) == 300
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_a_recorded_step_records():
    sums = gradient_record.recorded(num_classes=30, num_proposals=16)().sums
    assert (sums.sum(dim=2) > 0).all()


def test_every_start_up_gives_the_same_items(tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "NUM_OBJECTS", 50)
    monkeypatch.setattr(start_up, "NUM_ITEMS", 40)
    path = str(tmp_path / "annotations.json")
    assert start_up.write_annotations(path, num_images=40) > 300
    reports = {
        name: start_up.measure_here(name, path, str(tmp_path / "cache"))
        for name in ("first", "cached", start_up.RIVAL)
    }
    assert len({report["items"] for report in reports.values()}) == 1
    assert len(list((tmp_path / "cache").glob("*.columns"))) == 1
    assert all(report["load"]["wall"] > 0 for report in reports.values())


def test_both_test_steps_find_the_same(monkeypatch):
    monkeypatch.setattr(test_step, "ORIGINAL_SIZE", (120, 160))
    monkeypatch.setattr(test_step, "NUM_DETECTIONS", 101)
    results = [
        test_step.make_test_step(name, 40, 30, (96, 128), "trained")() for name in test_step.NAMES
    ]
    (boxes, masks), (expected_boxes, expected_masks) = results
    assert len(boxes) > 100
    torch.testing.assert_close(boxes, expected_boxes)
    assert masks == expected_masks


def test_many_categories(tmp_path, monkeypatch):
    for name in many_categories.WORKLOADS:
        many_categories.make_workload(name, num_classes=30)()
    monkeypatch.setattr(many_categories, "NUM_CATEGORIES", 50)
    path = str(tmp_path / "annotations.json")
    many_categories.write_annotations(path, num_images=300, num_boxes=900)
    names = ("first", "V3DetDataset", "cached")
    reports = [many_categories.measure_here(name, path, str(tmp_path / "c")) for name in names]
    assert len({report["length"] for report in reports}) == 1
    assert reports[0]["length"] >= 300
