import argparse
import importlib
import json
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_eql.runs.study_file import read_study
from mmdet_eql.utils.errors import UserError
from tests.conftest import CONFIGS, REPOSITORY

STUDIES = sorted(
    path.stem
    for path in (CONFIGS / "studies").glob("*.yaml")
    if "\nstudy:" in path.read_text() and path.stem != "classifiers-lvis"
)


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Run a study whose steps are only noted: processes with their arguments, and sweeps."""
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    tool, calls = importlib.import_module("run_study"), []
    first = argparse.Namespace(is_done=True, work_dir=tmp_path, cfg=Config())
    (tmp_path / "last_checkpoint").write_text("iter_1.pth")
    (tmp_path / "iter_1.pth").write_text("weights")
    monkeypatch.setattr(tool, "only_run", lambda *args: first)
    monkeypatch.setattr(tool, "run", lambda *arguments: calls.append([*map(str, arguments)]))
    monkeypatch.setattr(tool.sweep, "sweep", calls.append)
    monkeypatch.chdir(tmp_path)
    for name, value in (("MMDET_EQL_DATA", "data"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(study, *of_sweep):
        calls.clear()
        if isinstance(study, dict):
            path = tmp_path / "a.json"
            path.write_text(json.dumps({"config": "a.py", "name": "EQL", **study}))
            study = str(path)
        args = argparse.Namespace(study=study, cfg_options={"a.b": 1}, of_sweep=of_sweep)
        args.work_dir = str(tmp_path / "out")
        tool.run_study(args)
        return calls

    return run


@pytest.mark.parametrize("study", STUDIES)
def test_a_dry_run_makes_the_data_and_trains_nothing(called, study):
    study_file = read_study(CONFIGS / "studies" / f"{study}.yaml")
    maker = "make_minilvis" + "_crops" * study_file.data["folder"].endswith(".npz")
    number = len(study_file.sets)
    made = [Path(call[0]).stem for call in called(study, "--dry-run") if isinstance(call, list)]
    assert made == [maker] * (number + (study_file.first_stage is not None))
    sweeps = [call for call in called(study, "--dry-run") if not isinstance(call, list)]
    assert [Path(args.file).stem for args in sweeps] == [study] * number * (not study_file.features)
    assert all(args.dry_run for args in sweeps)


@pytest.mark.parametrize("given", ["", "no/lvis_v0.5_train.json"])
def test_a_study_with_the_counts_of_lvis_asks_for_its_annotations(called, given, monkeypatch):
    monkeypatch.setenv("LVIS_ANNOTATIONS", given)
    with pytest.raises(UserError, match=f"LVIS_ANNOTATIONS is '{given}'; set it to the path"):
        called("classifiers-lvis")


SECTION = {"core_hours": 1}
FIRST_STAGE = {"first_stage": {"file": "first.yaml", "processes": 2}}


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (None, "no section 'study'"),
        ({**SECTION, "table": {}}, "unknown field `table`"),
        ({"data": {}}, "missing required field `core_hours`"),
        ({**SECTION, "first_stage": {"files": "a"}}, "`files` - at `study.first_stage`"),
        ({**SECTION, **FIRST_STAGE, "features": {"roi": 8}}, "`roi` - at `study.features`"),
        ({**SECTION, "features": {}}, "features are those of a first_stage, which is missing"),
        ({**SECTION, "tables": {"a": "EQL"}}, "Expected `array`, got `str` - at `study.tables"),
        ({**SECTION, "image_bins": [20, 3]}, "image_bins are no ascending numbers"),
        ({**SECTION, "tables": {"a": ["EQL", "EFL"]}}, "its a have 'EFL'; give some of EQL"),
        ({**SECTION, "gradients": ["EFL"]}, "its gradients have 'EFL'; give some of EQL"),
    ],
)
def test_an_invalid_section_is_named_before_anything_is_done(called, section, problem):
    with pytest.raises(UserError, match=f"a.json: .*{problem}"):
        called({"study": section})


def test_an_unknown_option_of_the_sweep_ends_before_anything_is_done(called, capsys):
    with pytest.raises(SystemExit):
        called({"study": SECTION}, "--sedes", "0")
    assert "unrecognized arguments: --sedes 0" in capsys.readouterr().err


def test_a_study_that_is_not_there(called):
    with pytest.raises(UserError, match=r"^nothing.yaml: cannot be read"):
        called("nothing.yaml")


def test_warnings_are_sentences(called, capsys):
    called({"study": SECTION})
    warnings.warn("odd", stacklevel=1)
    assert capsys.readouterr().err == "warning: odd\n"


def test_a_folder_may_be_a_number(called, tmp_path):
    made, _ = called({"study": {**SECTION, "data": {"folder": 2026}, "sets": {"a": {"seed": 1}}}})
    assert made[1:] == [str(tmp_path / "data" / "2026-a" / "minilvis"), "--seed=1"]


def test_options_of_the_sweep_win_over_the_defaults(called):
    (args,) = called({"study": SECTION}, "--jobs=7")
    assert args.jobs == 7


def test_an_invalid_first_stage_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    path = tmp_path / "first.json"
    path.write_text(json.dumps({"config": "gone.py"}))
    with pytest.raises(UserError, match=f"{path}: gone: gone.py: no such config"):
        importlib.import_module("run_study").only_run(path, tmp_path, {})


def test_runs_start_from_the_first_stage(called, tmp_path):
    first, args = called({"study": {**SECTION, **FIRST_STAGE, "image_bins": [3]}})
    assert (Path(first.file).name, first.gpus, first.cfg_options) == ("first.yaml", 2, {"a.b": 1})
    checkpoint = str(tmp_path / "iter_1.pth")
    assert args.cfg_options == {"load_from": checkpoint, "val_evaluator.classwise": True, "a.b": 1}


def test_features_are_computed_once_and_not_taken_for_others(called, tmp_path):
    def calls(**features):
        return called({"study": {**SECTION, **FIRST_STAGE, "features": features}})

    out = tmp_path / "features-data"
    _, cached, args = calls(flips=True, rois=8)
    assert cached[-5:] == ["--dtype", "float16", "--flips", "--rois", "8"]
    assert args.cfg_options == {"features": str(out), "a.b": 1}
    assert len(calls(flips=True, rois=8)) == 2
    with pytest.raises(UserError, match=f"{out}: has features of another first stage"):
        calls()
    (tmp_path / "iter_1.pth").write_text("other weights")
    with pytest.raises(UserError, match=f"{out}: has features of another first stage"):
        calls(flips=True, rois=8)
