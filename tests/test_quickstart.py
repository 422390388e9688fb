"""The quickstart from end to end on a tiny MiniLVIS, and run once more."""

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.conftest import TINY, tiny_options

REPOSITORY = Path(__file__).parents[1]


STUDIES = REPOSITORY / "configs" / "studies"
NAMES = {"sigmoid": "sigmoid", "EQL+RFS": "eql-rfs"}


@pytest.fixture
def run(minilvis, tmp_path, monkeypatch):
    """Run the quickstart with two runs, on the tiny set or on data of other options."""
    for name, value in (("CUDA_VISIBLE_DEVICES", ""), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    tool = importlib.import_module("run_study")
    for folder in ("quickstart", "balanced"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "minilvis").symlink_to(minilvis)

    def run(data, work_dir=None, **options):
        config = "configs/minilvis/mask-rcnn_r18_fpn_{}_1xb4_minilvis.py"
        spec = {
            "_base_": str(STUDIES / "quickstart.yaml"),
            "seeds": [0],
            "runs": [{"name": name, "config": config.format(NAMES[name])} for name in NAMES],
            "study": {
                "data": {"folder": "quickstart", **data},
                "first_stage": {
                    "file": str(STUDIES / "quickstart-first-stage.yaml"),
                    "data": {"folder": "balanced", **data},
                },
                "tables": {"table": list(NAMES)},
            },
        }
        study = tmp_path / "study.json"
        study.write_text(json.dumps(spec))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MMDET_EQL_DATA", str(tmp_path))  # as for a new process
        args = argparse.Namespace(
            study=str(study), work_dir=work_dir, cfg_options=options, of_sweep=[]
        )
        tool.run_study(args)

    return run


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of each file but the locks."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_data_made_with_other_options_are_refused(run, capfd):
    with pytest.raises(SystemExit, match="2"):
        run({"num_categories": 13})
    assert "num_categories=12 instead of 13" in capfd.readouterr().err


def test_to_the_results_and_once_more(run, minilvis, tmp_path, capsys):
    tiny = dataclasses.asdict(TINY)
    del tiny["image_counts"]
    work_dir = tmp_path / "work dirs, all of them" / "quickstart"
    options = tiny_options(minilvis, max_iters=4, method="sigmoid")
    # The study has neither masks nor a single seed.
    kept = {
        key: value
        for key, value in options.items()
        if not key.startswith(("model.roi_head.mask", "randomness"))
        and not key.endswith(("data_root", "ann_file"))
    }
    kept["decoupled.epochs"] = 1
    run(tiny, work_dir, **kept)
    shown = capsys.readouterr().out

    # The tables show the metrics of the runs.
    table = (work_dir / "table.md").read_text()
    assert table.strip() in shown
    _, means, gains, over_images, *_ = table.split("| box AP")
    rows = {line.split("|")[1].strip(): line.split("|")[3:-1] for line in means.splitlines()[2:4]}
    assert list(rows) == ["sigmoid", "EQL+RFS"]
    for name, cells in rows.items():
        result = work_dir / f"{name}_seed=0" / "result.json"
        metrics = json.loads(result.read_text())["figures"]["bbox"]
        for cell, metric in zip(cells, ("AP", "AP50", "AP75", "APr", "APc", "APf"), strict=True):
            value = metrics[metric]
            assert cell.strip() == ("-" if value is None else f"{100 * value:.1f}")
    for part in (gains, over_images):
        assert "minus sigmoid" in part
        assert "| EQL+RFS" in part
    assert "</html>" in (work_dir / "table.html").read_text()
    assert cv2.imread(str(work_dir / "table.png")).shape[1] > 1000
    pictures = list((work_dir / "predictions").glob("*.png"))
    assert len(pictures) == 6
    assert all(cv2.imread(str(picture)).std() > 0 for picture in pictures)

    before = contents(work_dir)
    run(tiny, work_dir, **kept)
    assert table.strip() in capsys.readouterr().out
    assert contents(work_dir) == before


def test_help_needs_no_environment(tmp_path):
    # A copy without .venv, and a python3 that has no packages.
    tools = tmp_path / "repository" / "tools"
    tools.mkdir(parents=True)
    for name in ("quickstart.sh", "run_study.py", "sweep.py", "arguments.py"):
        (tools / name).write_bytes((REPOSITORY / "tools" / name).read_bytes())
    environment = {**os.environ, "PYTHONNOUSERSITE": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        ["bash", str(tools / "quickstart.sh"), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    for option in ("--work-dir", "--cfg-options", "MMDET_EQL_DATA"):
        assert option in result.stdout


def test_the_environment_comes_first(tmp_path):
    tools = tmp_path / "a repository" / "tools"
    tools.mkdir(parents=True)
    (tools / "quickstart.sh").write_bytes((REPOSITORY / "tools" / "quickstart.sh").read_bytes())
    setup = tools / "setup_env.sh"
    python = tools.parent / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "python: $*"\n')
    python.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = ["bash", str(tools / "quickstart.sh"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    setup.write_text('echo "environment: $*"\n')
    lines = run("--work-dir", "some where").stdout.splitlines()
    assert lines[0] == "environment: "
    assert lines[1].endswith("tools/run_study.py quickstart --work-dir some where")

    setup.write_text("echo broken >&2\nexit 3\n")
    result = run()
    assert (result.returncode, result.stdout) == (3, "")
