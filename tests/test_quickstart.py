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

REPOSITORY = Path(__file__).parents[1]
MAX_ITERS = 12
RUNS = ("baseline", "EQL")


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work dirs, all of them") / "quickstart"


@pytest.fixture
def command(minilvis, work_dir) -> list[str]:
    script = str(REPOSITORY / "tools" / "quickstart.py")
    options = ["--data", str(minilvis), "--work-dir", str(work_dir), "--max-iters", str(MAX_ITERS)]
    return [sys.executable, script, *options]


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
    assert b"run the same command again to go on" in err
    assert b"Traceback" not in err
    assert b"the last checkpoint of baseline is at" in out
    if sys.platform == "linux":
        assert not processes_of(work_dir)
    assert not (work_dir / "table.md").exists()


def test_other_settings_are_refused(command, work_dir, tmp_path):
    before = contents(work_dir)
    result = call([*command[:-1], str(MAX_ITERS + 1)], tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert f"was made with max_iters {MAX_ITERS} instead of {MAX_ITERS + 1}" in result.stderr
    assert contents(work_dir) == before


def test_going_on_to_the_results(command, work_dir, tmp_path):
    result = call(command, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "about" in result.stdout
    assert "left" in result.stdout
    for name in RUNS:
        starts = (work_dir / name / "train.log").read_text().splitlines()
        assert "--resume" in [line for line in starts if line.startswith("$ ")][1]

    # The table shows the figures that mmengine logged.
    table = (work_dir / "table.md").read_text()
    assert table.strip() in result.stdout
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines()[4:]}
    assert list(rows) == ["baseline", "EQL", "EQL minus baseline"]
    for name in RUNS:
        logged = final_record(work_dir / name)
        for cell, kind, figure in zip(
            rows[name],
            ["bbox"] * 4 + ["segm"] * 4,
            ["AP", "APr", "APc", "APf"] * 2,
            strict=True,
        ):
            value = logged[f"lvis/{kind}_{figure}"]
            assert cell.strip() == ("-" if value < 0 else f"{100 * value:.1f}")

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
    for name in ("quickstart.sh", "quickstart.py"):
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
    for option in ("--data", "--work-dir", "--max-iters"):
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
