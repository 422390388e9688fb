"""The quickstart from end to end on a tiny MiniLVIS: stopped, resumed, and run once more."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from tests.conftest import tiny_options

REPOSITORY = Path(__file__).parents[1]
RUNS = ("sigmoid_seed=0", "EQL_seed=0")


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work dirs, all of them") / "quickstart"


@pytest.fixture
def command(minilvis, work_dir, monkeypatch) -> list[str]:
    monkeypatch.setenv("MMDET_EQL_DATA", str(minilvis.parent))
    script = str(REPOSITORY / "tools" / "quickstart.py")
    options = tiny_options(minilvis, max_iters=12, method="sigmoid")
    del options["randomness.seed"]
    options = [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in options.items()]
    return [sys.executable, script, "--work-dir", str(work_dir), "--cfg-options", *options]


def call(command: list[str], cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def processes_of(work_dir: Path) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(work_dir) in arguments:
            found.append(arguments)
    return found


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of each file but the lock."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# The tests below are the story of one work_dir, in this order.


def test_stopped_in_the_middle(command, work_dir, tmp_path):
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 200
        while not all((work_dir / name / "last_checkpoint").exists() for name in RUNS):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"give the same command again to go on" in err
    assert b"Traceback" not in err
    assert b"sigmoid_seed=0" in out
    if sys.platform == "linux":
        assert not processes_of(work_dir)
    assert not (work_dir / "table.md").exists()


def test_going_on_to_the_results(command, work_dir, tmp_path):
    result = call(command, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "about" in result.stdout
    assert "left" in result.stdout
    for name in RUNS:
        starts = (work_dir / name / "train.log").read_text().splitlines()
        assert "--resume" in [line for line in starts if line.startswith("$ ")][1]

    # The tables show the metrics that mmengine logged.
    table = (work_dir / "table.md").read_text()
    assert table.strip() in result.stdout
    for kind, title in (("bbox", "box"), ("segm", "mask")):
        _, rest = table.split(f"| {title} AP (%) |")
        rows = {
            line.split("|")[1].strip(): line.split("|")[3:-1] for line in rest.splitlines()[2:4]
        }
        assert list(rows) == ["sigmoid", "EQL"]
        for name in RUNS:
            logged = final_record(work_dir / name)
            columns = ["AP", "AP50", "AP75", "APr", "APc", "APf"]
            for cell, metric in zip(rows[name.split("_")[0]], columns, strict=True):
                value = logged[f"lvis/{kind}_{metric}"]
                assert cell.strip() == ("-" if value < 0 else f"{100 * value:.1f}")
    assert "| box AP minus sigmoid |" in table
    assert "</html>" in (work_dir / "comparison.html").read_text()

    assert cv2.imread(str(work_dir / "ap_over_frequency.png")).shape[1] > 1000
    pictures = list((work_dir / "predictions").glob("*.png"))
    assert len(pictures) == 6
    for picture in pictures:
        assert cv2.imread(str(picture)).std() > 0


def final_record(run: Path) -> dict:
    start = max(path for path in run.iterdir() if (path / "vis_data" / "scalars.json").exists())
    lines = (start / "vis_data" / "scalars.json").read_text().splitlines()
    return json.loads(lines[-1])


def test_running_again_redoes_nothing(command, work_dir, tmp_path):
    before = contents(work_dir)
    result = call(command, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (work_dir / "table.md").read_text().strip() in result.stdout
    assert contents(work_dir) == before


def test_help_needs_no_environment(tmp_path):
    # A copy without .venv, and a python3 that has no packages.
    tools = tmp_path / "repository" / "tools"
    tools.mkdir(parents=True)
    for name in ("quickstart.sh", "quickstart.py", "arguments.py"):
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
    assert lines[1].endswith("tools/quickstart.py --work-dir some where")

    setup.write_text("echo broken >&2\nexit 3\n")
    result = run()
    assert (result.returncode, result.stdout) == (3, "")
