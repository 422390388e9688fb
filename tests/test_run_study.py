import argparse
import importlib
import json
from pathlib import Path

import pytest

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
    """Run a study whose steps are only noted: processes, and the files of sweeps."""
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    tool, calls = importlib.import_module("run_study"), []
    monkeypatch.setattr(tool, "run", lambda *arguments: calls.append(Path(arguments[0]).stem))
    monkeypatch.setattr(tool.sweep, "sweep", lambda args: calls.append(Path(args.file).stem))
    monkeypatch.chdir(tmp_path)
    for name, value in (("MMDET_EQL_DATA", "data"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(study, *of_sweep):
        tool.run_study(
            argparse.Namespace(study=study, work_dir=None, cfg_options=None, of_sweep=of_sweep)
        )
        return calls

    return run


@pytest.mark.parametrize("study", STUDIES)
def test_a_dry_run_makes_the_data_and_trains_nothing(called, study):
    study_file = read_study(CONFIGS / "studies" / f"{study}.yaml")
    maker = "make_minilvis" + "_crops" * study_file.data["folder"].endswith(".npz")
    assert called(study, "--dry-run") == [maker, study] * len(study_file.sets)


@pytest.mark.parametrize("given", ["", "no/lvis_v0.5_train.json"])
def test_a_study_with_the_counts_of_lvis_asks_for_its_annotations(called, given, monkeypatch):
    monkeypatch.setenv("LVIS_ANNOTATIONS", given)
    with pytest.raises(UserError, match=f"LVIS_ANNOTATIONS is '{given}'; set it to the path"):
        called("classifiers-lvis")


SECTION = {"core_hours": 1, "data": {"folder": "a"}}


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (None, "no section 'study'"),
        ({**SECTION, "table": {}}, "study has no key 'table'; give core_hours, data"),
        ({"data": {}}, "study lacks a key"),
        ({**SECTION, "first_stage": {"files": "a"}}, "study.first_stage has no key 'files'"),
    ],
)
def test_an_invalid_section_is_named(called, tmp_path, section, problem):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"config": "a.py", **({"study": section} if section else {})}))
    with pytest.raises(UserError, match=rf"{path}: .*{problem}"):
        called(str(path))


def test_a_study_that_is_not_there(called):
    with pytest.raises(UserError, match=r"nothing\.yaml: cannot be read"):
        called("nothing")


def test_a_first_stage_is_one_run(called, monkeypatch):
    tool = importlib.import_module("run_study")
    monkeypatch.setattr(tool.sweep, "sweep", lambda args: ["one", "another"])
    with pytest.raises(UserError, match=r"quickstart-first-stage\.yaml: has 2 runs; leave one"):
        called("quickstart")


@pytest.mark.parametrize("place", ["tables", "gradients"])
def test_a_table_of_an_unknown_run_is_named(called, place, monkeypatch, tmp_path):
    tool = importlib.import_module("run_study")
    monkeypatch.setattr(tool.sweep, "sweep", lambda args: [argparse.Namespace(label="EQL")])
    named = {"tables": {"losses": ["EQL", "EFL"]}, "gradients": ["EFL"]}[place]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"config": "a.py", "study": {**SECTION, place: named}}))
    with pytest.raises(UserError, match=r"a: its .* 'EFL'; give some of .'EQL'"):
        called(str(path))
