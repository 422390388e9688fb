"""What a work_dir refuses before anything is trained."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from mmdet_eql.runs import minilvis_comparison
from mmdet_eql.runs.minilvis_comparison import Comparison, compare_on_minilvis
from mmdet_eql.runs.planning import write_run_files
from mmdet_eql.utils.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "minilvis"


class Stopped(Exception):
    """Training would begin here."""


@pytest.fixture
def comparison(minilvis, tmp_path, monkeypatch) -> Comparison:
    def stop(runs, machine, display):
        for run in runs:
            write_run_files(run)
        raise Stopped

    monkeypatch.setattr(minilvis_comparison, "train_runs", stop)
    return Comparison(
        configs={
            "baseline": CONFIGS / "mask-rcnn_r18_fpn_sigmoid_1xb4_minilvis.py",
            "EQL": CONFIGS / "mask-rcnn_r18_fpn_eql_1xb4_minilvis.py",
        },
        data=minilvis,
        work_dir=tmp_path / "work_dir",
        tools=tmp_path,
        max_iters=8,
    )


def start(comparison: Comparison, **changes) -> None:
    compare_on_minilvis(dataclasses.replace(comparison, **changes), say=lambda line: None)


def test_the_same_settings_go_on(comparison):
    with pytest.raises(Stopped):
        start(comparison)
    before = (comparison.work_dir / "settings.json").read_bytes()
    with pytest.raises(Stopped):
        start(comparison)
    assert (comparison.work_dir / "settings.json").read_bytes() == before


def test_a_moved_dataset_is_the_same(comparison, tmp_path):
    with pytest.raises(Stopped):
        start(comparison)
    moved = tmp_path / "moved"
    shutil.copytree(comparison.data, moved)
    with pytest.raises(Stopped):
        start(comparison, data=moved)
    config = next((comparison.work_dir / "configs").glob("*_eql_*.py")).read_text()
    assert str(moved) in config
    assert str(comparison.data) not in config

    path = moved / "annotations" / "minilvis_val.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="was made with another dataset; give another --work-dir"):
        start(comparison, data=moved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_iters": 9}, "with max_iters 8 instead of 9"),
        ({"max_iters": None}, "with max_iters 8 instead of"),
        ({"seed": 1}, "with seed 0 instead of 1"),
    ],
)
def test_other_settings_are_refused(comparison, changes, said):
    with pytest.raises(Stopped):
        start(comparison)
    with pytest.raises(UserError, match=said):
        start(comparison, **changes)


def test_another_config_is_refused(comparison, tmp_path):
    with pytest.raises(Stopped):
        start(comparison)
    changed = tmp_path / comparison.configs["EQL"].name
    changed.write_text(
        f"_base_ = {str(comparison.configs['EQL'])!r}\n"
        "model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=0.5))))\n"
    )
    with pytest.raises(UserError, match="was made with another config of EQL"):
        start(comparison, configs={**comparison.configs, "EQL": changed})


@pytest.mark.parametrize("text", ["", "{", "[1]", "8", "null"])
def test_settings_that_cannot_be_read_are_refused(comparison, text):
    comparison.work_dir.mkdir()
    (comparison.work_dir / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json: cannot be read"):
        start(comparison)


def test_a_folder_in_use_is_refused(comparison):
    def interfere(line):
        with pytest.raises(UserError, match="another process is at work in this folder"):
            start(comparison)
        raise Stopped

    with pytest.raises(Stopped):
        compare_on_minilvis(comparison, say=interfere)
    with pytest.raises(Stopped):
        start(comparison)


@pytest.mark.parametrize("max_iters", [0, -1])
def test_no_iterations_are_refused(comparison, max_iters):
    with pytest.raises(UserError, match="must be at least 1"):
        start(comparison, max_iters=max_iters)
    assert not comparison.work_dir.exists()


def test_a_folder_that_cannot_be_made_is_told(comparison, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        start(comparison, work_dir=tmp_path / "file" / "work_dir")


def test_the_configs_that_run_are_complete(comparison):
    with pytest.raises(Stopped):
        start(comparison)
    settings = json.loads((comparison.work_dir / "settings.json").read_text())
    assert (settings["max_iters"], settings["seed"]) == (8, 0)
    for path in (comparison.work_dir / "configs").iterdir():
        text = path.read_text()
        assert "_base_" not in text
        assert "num_classes=12" in text
        assert "classwise=True" in text
        assert "seed=0" in text
