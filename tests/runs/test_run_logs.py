"""Figures and learning curves read from the logs of runs, whole and broken off."""

import json
import math
import re

import pytest

from mmdet_eql.runs.groups import group_runs
from mmdet_eql.runs.records import RunRecord
from mmdet_eql.runs.run_logs import learning_curve, load_run
from mmdet_eql.runs.tables import format_report
from mmdet_eql.utils.errors import UserError

TRAIN = {"lr": 0.02, "data_time": 0.01, "loss": 1.5, "time": 0.25, "epoch": 1, "iter": 20}


def figures(ap: float, prefix: str = "lvis/", **more) -> dict:
    named = {f"{prefix}bbox_AP": ap, f"{prefix}bbox_APr": -1.0, f"{prefix}segm_AP50": ap / 2}
    return {**named, f"{prefix}bbox_red fox_precision": ap, **more}


def write_scalars(work_dir, start: str, records: list[dict], tail: str = "") -> None:
    folder = work_dir / start / "vis_data"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "scalars.json").write_text(lines + tail)


def write_test(work_dir, start: str, record: dict) -> None:
    (work_dir / start).mkdir(parents=True)
    (work_dir / start / f"{start}.json").write_text(json.dumps(record))


def test_figures_of_a_training_run(tmp_path):
    write_scalars(tmp_path, "20250101_000000", [TRAIN | {"step": 20}, figures(0.25) | {"step": 0}])
    result = load_run(tmp_path)
    assert result.figures["bbox"]["AP"] == 0.25
    assert math.isnan(result.figures["bbox"]["APr"])
    assert result.figures["segm"] == {"AP50": 0.125}
    assert result.category_ap == {"bbox": {"red fox": 0.25}}


def test_the_last_validation_counts(tmp_path):
    records = [figures(0.1), TRAIN | {"step": 40}, figures(0.2), TRAIN | {"step": 60}]
    write_scalars(tmp_path, "20250101_000000", records)
    assert load_run(tmp_path).figures["bbox"]["AP"] == 0.2


def test_the_last_start_counts(tmp_path):
    write_scalars(tmp_path, "20250102_000000", [figures(0.2)])
    write_scalars(tmp_path, "20250101_235959", [figures(0.1)])
    write_scalars(tmp_path, "20250103_000000", [TRAIN | {"step": 20}])
    assert load_run(tmp_path).figures["bbox"]["AP"] == 0.2
    write_test(tmp_path, "20250104_000000", figures(0.3))
    assert load_run(tmp_path).figures["bbox"]["AP"] == 0.3


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_broken_off_line_is_passed_over(tmp_path, length):
    tail = json.dumps(figures(0.9))[:length]
    write_scalars(tmp_path, "20250101_000000", [figures(0.1), TRAIN | {"step": 20}], tail)
    assert load_run(tmp_path).figures["bbox"]["AP"] == 0.1


def test_bytes_that_are_no_text_are_passed_over(tmp_path):
    write_scalars(tmp_path, "20250101_000000", [figures(0.1)])
    path = tmp_path / "20250101_000000" / "vis_data" / "scalars.json"
    path.write_bytes(path.read_bytes() + b'{"lvis/bbox_AP": \xff\x00\n[1]\n"text"\n')
    assert load_run(tmp_path).figures["bbox"]["AP"] == 0.1


@pytest.mark.parametrize("prefix", ["", "lvis/", "val/lvis/", "a/b/lvis/"])
def test_prefixes_of_metric_and_loop(tmp_path, prefix):
    write_test(tmp_path, "20250101_000000", figures(0.4, prefix))
    result = load_run(tmp_path)
    assert result.figures["bbox"]["AP"] == 0.4
    assert result.category_ap["bbox"] == {"red fox": 0.4}


def test_names_that_look_like_figures(tmp_path):
    names = ["AP", "a/b", "segm_AP", "bbox_x_precision", "time"]
    record = {f"lvis/bbox_{name}_precision": 0.5 for name in names}
    write_test(tmp_path, "20250101_000000", figures(0.1) | record)
    result = load_run(tmp_path)
    assert set(result.category_ap["bbox"]) == {*names, "red fox"}
    assert set(result.figures["bbox"]) == {"AP", "APr"}


def test_fixed_ap_pooled_ap_and_boundaries_are_kinds_of_their_own(tmp_path):
    more = {"lvis/bbox_fixed_APr": 0.6, "lvis/boundary_pooled_AP": 0.7, "lvis/boundary_AP": 0.8}
    write_test(tmp_path, "20250101_000000", figures(0.1) | more)
    found = load_run(tmp_path).figures
    assert found["bbox_fixed"] == {"APr": 0.6}
    assert (found["boundary_pooled"], found["boundary"]) == ({"AP": 0.7}, {"AP": 0.8})
    assert "APr" in found["bbox"]
    record = RunRecord("a", "a", "a", {}, 0, "1", "1", found)
    report = format_report(group_runs([record]), None, "welch")
    titles = re.findall(r"^\| ([a-zA-Z ]+) \(%\)", report, re.MULTILINE)
    assert titles == ["box AP", "box Fixed AP", "mask AP", "boundary AP", "boundary pooled AP"]


def test_no_ground_truth_is_nan(tmp_path):
    record = figures(0.1) | {"lvis/segm_wolf_precision": math.nan, "lvis/segm_AR@300": -1}
    write_test(tmp_path, "20250101_000000", record)
    result = load_run(tmp_path)
    assert math.isnan(result.category_ap["segm"]["wolf"])
    assert math.isnan(result.figures["segm"]["AR@300"])


def test_missing_figures_are_told(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_run(tmp_path / "nowhere")
    write_scalars(tmp_path, "20250101_000000", [TRAIN | {"step": 20}, {"coco/bbox_mAP": 0.5}])
    with pytest.raises(UserError, match="holds no metrics of a finished evaluation"):
        load_run(tmp_path)


def test_other_folders_are_no_starts(tmp_path):
    write_scalars(tmp_path, "20250101_000000_copy", [figures(0.1)])
    write_scalars(tmp_path, "vis_20250101_000000", [figures(0.1)])
    with pytest.raises(UserError, match="holds no metrics of a finished evaluation"):
        load_run(tmp_path)


def test_a_training_that_began_anew_has_nothing_of_the_one_before(tmp_path):
    for start, ap, step, resume in (
        ("20250101_000000", 0.1, 9, False),
        ("20250102_000000", 0.2, 2, False),
        ("20250103_000000", 0.3, 4, True),
    ):
        write_scalars(tmp_path, start, [figures(ap) | {"step": step}])
        # As mmengine writes it here, without yapf.
        (tmp_path / start / "vis_data" / "config.py").write_text(f"a=1\nresume={resume}\n")
    write_test(tmp_path, "20250104_000000", figures(0.4))
    assert [step for step, _ in learning_curve(tmp_path)] == [2, 4]
    write_scalars(tmp_path, "20250105_000000", [TRAIN | {"step": 20}])
    (tmp_path / "20250105_000000" / "vis_data" / "config.py").write_text("resume = False\n")
    with pytest.raises(UserError, match="holds no metrics of a finished evaluation"):
        load_run(tmp_path)


def test_a_learning_curve_spans_all_starts(tmp_path):
    assert learning_curve(tmp_path) == []
    first = [figures(0.1) | {"step": 20}, TRAIN | {"step": 30}, figures(0.2) | {"step": 40}]
    write_scalars(tmp_path, "20250101_000000", first)
    write_scalars(tmp_path, "20250102_000000", [figures(0.3) | {"step": 40}])
    curve = learning_curve(tmp_path)
    assert [(step, found["bbox"]["AP"]) for step, found in curve] == [(20, 0.1), (40, 0.3)]


def test_what_came_after_the_place_of_a_resumed_start_is_left_out(tmp_path):
    first = [figures(ap) | {"step": step} for step, ap in ((20, 0.1), (40, 0.2), (60, 0.3))]
    write_scalars(tmp_path, "20250101_000000", first)
    write_scalars(tmp_path, "20250102_000000", [figures(0.4) | {"step": 40}])
    curve = learning_curve(tmp_path)
    assert [(step, found["bbox"]["AP"]) for step, found in curve] == [(20, 0.1), (40, 0.4)]


def test_of_several_evaluators_the_first_counts(tmp_path):
    write_test(tmp_path, "20250101_000000", figures(0.4) | figures(0.9, "other/"))
    result = load_run(tmp_path)
    assert (result.figures["bbox"]["AP"], result.category_ap["bbox"]["red fox"]) == (0.4, 0.4)


def test_accuracies_become_fractions(tmp_path):
    record = {
        "accuracy/top1": 50.0,
        "accuracy/few": 12.5,
        "accuracy/red fox_accuracy": 25.0,
        "accuracy/top1_accuracy": 75.0,
        "data_time": 0.1,
    }
    write_test(tmp_path, "20250101_000000", record)
    result = load_run(tmp_path)
    assert result.figures == {"accuracy": {"top1": 0.5, "few": 0.125}}
    assert result.category_ap == {"accuracy": {"red fox": 0.25, "top1": 0.75}}
