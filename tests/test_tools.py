"""The command-line tools as a user runs them: training, testing, several ranks, mistakes."""

import os
import shutil
import subprocess
import sys
import time

import cv2
import psutil
import pytest
import torch

from tests.conftest import REPOSITORY, as_arguments, minilvis_config, tiny_options

RANK_DUMP = '''
import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook


@HOOKS.register_module()
class RankDump(Hook):
    """Save the weights of every rank."""

    priority = "LOWEST"

    def after_train(self, runner):
        torch.save(runner.model.module.state_dict(), f"{runner.work_dir}/rank_{get_rank()}.pth")
'''

HELP = """
import contextlib, io, os, runpy, sys

for path in sys.argv[1:]:
    sys.argv[:], sys.path[0] = [path, "--help"], os.path.dirname(path)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")
    assert out.getvalue().startswith("usage: "), path
    assert not {"torch", "mmengine", "mmdet"} & sys.modules.keys(), path
"""


@pytest.fixture
def config_file(tiny_config, tmp_path):
    """Write the tiny config to a file, after changing it by a function."""

    def make(edit=lambda cfg: None, **kwargs):
        cfg = tiny_config(**kwargs)
        edit(cfg)
        path = tmp_path / "tiny.py"
        cfg.dump(str(path))
        return path

    return make


def copy_of(minilvis, tmp_path):
    folder = tmp_path / "minilvis"
    shutil.copytree(minilvis, folder)
    return folder


def train_on(data_root, **options):
    return [minilvis_config("eql"), *as_arguments({**tiny_options(data_root, 2), **options})]


def assert_one_sentence(result, *words):
    errors = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(errors) == 1, result.stderr
    for word in words:
        assert str(word) in errors[0]


def test_help_is_there_before_the_slow_imports():
    folder = REPOSITORY / "tools"
    tools = [
        path
        for name in ("", "analysis", "datasets", "misc")
        for path in (folder / name).glob("*.py")
    ]
    tools.remove(folder / "arguments.py")  # no tool
    assert len(tools) > 15
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", HELP, *map(str, tools)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_train_resume_and_test_from_another_folder(run_tool, call_tool, minilvis, tmp_path):
    options = as_arguments(tiny_options(minilvis, 2))
    result = run_tool("train.py", minilvis_config("eql"), *options, check=True)
    work_dir = tmp_path / "work_dirs" / minilvis_config("eql").stem
    assert (work_dir / "iter_2.pth").is_file()
    assert "lvis/bbox_APr" in result.stdout + result.stderr
    # What MMDetection prints and warns about packages that it can do without.
    assert "OneDL" not in result.stdout + result.stderr
    assert "faster_coco_eval" not in result.stdout + result.stderr
    assert "deprecated" not in result.stdout + result.stderr

    options = as_arguments(tiny_options(minilvis, 4))
    result = call_tool("train.py", minilvis_config("eql"), "--resume", *options, check=True)
    assert f"resumes     {work_dir}/iter_2.pth, after iteration 2 " in result.stdout
    assert (work_dir / "iter_4.pth").is_file()

    result = call_tool(
        "test.py", minilvis_config("eql"), work_dir / "iter_4.pth",
        "--out", tmp_path / "predictions.pkl", "--show-dir", "painted", *options,
        "test_dataloader.dataset.indices=6", check=True,
    )  # fmt: skip
    assert "lvis/segm_AP" in result.stdout + result.stderr
    assert f"checkpoint  {work_dir / 'iter_4.pth'}\n" in result.stdout
    assert "Config:" not in result.stdout
    assert (tmp_path / "predictions.pkl").is_file()
    assert len(list(work_dir.glob("*/painted/*.jpg"))) == 6


def test_two_ranks_of_which_one_dies(run_tool, config_file, tmp_path, monkeypatch):
    (tmp_path / "rank_dump.py").write_text(RANK_DUMP)

    def add_dump(cfg):
        cfg.custom_imports.imports.append("rank_dump")
        cfg.custom_hooks.append(dict(type="RankDump"))
        cfg.val_dataloader.dataset.indices = 4

    config = config_file(add_dump, max_iters=16)
    work_dir = tmp_path / "work_dir"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    process = subprocess.Popen(
        ["bash", REPOSITORY / "tools" / "dist_train.sh", config, "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 200
        while not (work_dir / "iter_4.pth").is_file() and time.monotonic() < deadline:
            assert process.poll() is None, "training ended before it could be killed"
            time.sleep(0.05)
        ranks = {
            child.environ().get("RANK"): child
            for child in psutil.Process(process.pid).children(recursive=True)
        }
        ranks["1"].kill()
        assert process.wait(timeout=100) != 0
        assert not psutil.pid_exists(ranks["0"].pid)
    finally:
        if process.poll() is None:
            # torchrun gives each rank a session of its own.
            parent = psutil.Process(process.pid)
            for rank in [*parent.children(recursive=True), parent]:
                rank.kill()
    assert not (work_dir / "iter_16.pth").is_file()

    # The job goes on, and both ranks end with the same weights.
    last = (work_dir / "last_checkpoint").read_text().strip()
    result = run_tool("dist_train.sh", config, 2, "--resume", check=True)
    iteration = last.rpartition("iter_")[2].removesuffix(".pth")
    assert f", after iteration {iteration} " in result.stdout
    first, second = (torch.load(work_dir / f"rank_{rank}.pth") for rank in (0, 1))
    assert first.keys() == second.keys()
    own = "running_", "num_batches_tracked"  # batch statistics are each rank's own
    shared = [key for key in first if not any(word in key for word in own)]
    assert "roi_head.bbox_head.loss_cls.class_frequency" in shared
    for key in shared:
        assert torch.equal(first[key], second[key]), key


# --- mistakes -------------------------------------------------------------------------------------


def test_no_such_config(call_tool, run_tool):
    assert_one_sentence(call_tool("train.py", "nothing.py"), "nothing.py", "no such config")
    result = run_tool("dist_train.sh", "nothing.py", 2)
    assert_one_sentence(result, "no such config")


def test_a_config_that_is_not_python(call_tool, tmp_path):
    (tmp_path / "broken.py").write_text("model = dict(\n")
    assert_one_sentence(call_tool("train.py", tmp_path / "broken.py"), "broken.py", "is not Python")
    (tmp_path / "broken.py").write_text("_base_ = './gone.py'\n")
    assert_one_sentence(call_tool("train.py", tmp_path / "broken.py"), "gone.py", "'_base_'")


def test_a_module_of_a_config_that_python_does_not_find(call_tool, tmp_path):
    """It may lie beside the config."""
    (tmp_path / "my_losses.py").touch()
    (tmp_path / "mine.py").write_text("custom_imports = dict(imports=['my_losses'])\n")
    result = call_tool("train.py", tmp_path / "mine.py")
    assert_one_sentence(result, "mine.py", "(No module named 'my_losses')", "PYTHONPATH")


def test_missing_annotations_and_images(call_tool, minilvis, tmp_path):
    assert_one_sentence(
        call_tool("train.py", *train_on(tmp_path / "nowhere")),
        "nowhere",
        "ann_file",
        "does not exist",
    )
    folder = copy_of(minilvis, tmp_path)
    shutil.rmtree(folder / "train")
    assert_one_sentence(
        call_tool("train.py", *train_on(folder)), folder / "train", "no such image folder"
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: len(text) // 2], ["cut off"]),
        (lambda text: "<html>", ["is not JSON"]),
        (lambda text: text.replace("neg_category_ids", "negatives"), ["'neg_category_ids'"]),
    ],
)
def test_spoilt_annotations(call_tool, minilvis, tmp_path, spoil, words):
    folder = copy_of(minilvis, tmp_path)
    path = folder / "annotations" / "minilvis_train.json"
    path.write_text(spoil(path.read_text()))
    assert_one_sentence(call_tool("train.py", *train_on(folder)), path, *words)


def test_a_wrong_number_of_classes(call_tool, minilvis):
    args = train_on(minilvis, **{"model.roi_head.bbox_head.num_classes": 80})
    words = "num_classes is 200 and that of the heads 80, but", "12 categories", "num_classes = 12"
    assert_one_sentence(call_tool("train.py", *args), *words)


def test_a_corrupted_image_is_named(call_tool, minilvis, tmp_path):
    folder = copy_of(minilvis, tmp_path)
    for path in (folder / "train").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    for workers in (0, 1):
        options = {"train_dataloader.num_workers": workers}
        result = call_tool("train.py", *train_on(folder, **options))
        assert_one_sentence(result, folder / "train", ".jpg: the image is corrupted")
    for path in (folder / "train").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:50])
    assert_one_sentence(
        call_tool("train.py", *train_on(folder)), ".jpg: the image has 96x50 pixels"
    )


def test_an_unsafe_checkpoint_is_refused(call_tool, minilvis, tmp_path):
    path = tmp_path / "unsafe.pth"
    torch.save(dict(state_dict={}, trainer=time.sleep), path)
    args = [minilvis_config("eql"), path, *as_arguments(tiny_options(minilvis))]
    assert_one_sentence(call_tool("test.py", *args), path, "time.sleep", "convert_checkpoint.py")
    resumed = [*train_on(minilvis), "--resume", path]
    assert_one_sentence(call_tool("train.py", *resumed), path, "time.sleep")
    result = call_tool("misc/convert_checkpoint.py", path, tmp_path / "clean.pth")
    assert result.returncode == 2  # an empty state_dict is no model
    torch.save(dict(state_dict=dict(a=torch.ones(1)), trainer=time.sleep), path)
    result = call_tool("misc/convert_checkpoint.py", path, tmp_path / "clean.pth", check=True)
    assert "left out: trainer" in result.stdout
    assert torch.load(tmp_path / "clean.pth", weights_only=True) == dict(
        state_dict=dict(a=torch.ones(1))
    )


def test_missing_checkpoints(call_tool, minilvis):
    options = as_arguments(tiny_options(minilvis))
    config = minilvis_config("eql")
    assert_one_sentence(call_tool("test.py", config, "gone.pth", *options), "gone.pth: no such")
    assert_one_sentence(
        call_tool("train.py", config, "--resume", "gone.pth", *options), "gone.pth: no such"
    )


def test_options_that_cannot_be_followed(call_tool, minilvis):
    if not torch.cuda.is_available():
        args = [*train_on(minilvis), "--amp", "--amp-dtype", "float16"]
        assert_one_sentence(call_tool("train.py", *args), "--amp-dtype float16", "GPU")
    args = [*train_on(minilvis), "--amp-dtype", "bfloat16"]
    assert_one_sentence(call_tool("train.py", *args), "--amp-dtype", "--amp")
    args = [minilvis_config("eql"), "--cfg-options", "model.type.x=1"]
    assert_one_sentence(call_tool("train.py", *args), "--cfg-options does not fit")
    options = ["--cfg-options", "val_evaluator.ann_file=part.json"]
    args = [minilvis_config("eql"), minilvis / "minilvis.json", *options]
    assert_one_sentence(call_tool("test.py", *args), "no effect", "set test_evaluator.ann_file")


@pytest.mark.parametrize(
    ("tool", "option"),
    [
        ("datasets/check.py", "--workers"),
        ("analysis/browse_errors.py", "--max-cases"),
        ("demo.py", "--max-instances"),
        ("calibrate.py", "--images"),
    ],
)
def test_numbers_below_1_are_refused(call_tool, tool, option):
    result = call_tool(tool, option, "0")
    assert result.returncode == 2
    assert f"argument {option}: invalid positive value: '0'" in result.stderr


def test_predictions_that_cannot_be_written(call_tool, tmp_path):
    """Known before the first image."""
    (tmp_path / "file").touch()
    args = [minilvis_config("eql"), tmp_path / "file", "--out", tmp_path / "file" / "a.pkl"]
    assert_one_sentence(call_tool("test.py", *args), "a.pkl: cannot be written", "another --out")


def test_auto_scale_lr(call_tool, minilvis, tmp_path):
    args = train_on(minilvis, **{"auto_scale_lr.base_batch_size": 8})
    options = ["--auto-scale-lr", "--work-dir", tmp_path / "work"]
    call_tool("train.py", *args, *options, check=True)
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    assert "Scaling the original LR by 0.25" in log


def test_print_config(call_tool):
    options = ["--cfg-options", "train_cfg.max_iters=7"]
    out = call_tool("misc/print_config.py", minilvis_config("eql"), *options, check=True).stdout
    assert "type='EqualizationLoss'" in out
    assert "max_iters=7" in out


LAUNCHERS = ["dist_train.sh", "dist_test.sh", "slurm_train.sh", "run_study.sh"]


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_help_comes_before_the_slow_imports(script):
    command = [sys.executable, "-X", "importtime", REPOSITORY / "tools" / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--cfg-options" in result.stdout
    assert "argparse" in result.stderr
    assert "torch" not in result.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
def test_launchers_say_how_to_call_them(run_tool, script):
    result = run_tool(script)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_slurm_passes_everything_on(run_tool, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "GPUS": "16", "SRUN_ARGS": "--qos long"}
    result = run_tool(
        "slurm_train.sh", "gpu", "eql", "a config.py", "out", "--amp", env=env, check=True
    )
    lines = result.stdout.splitlines()
    assert {"--partition=gpu", "--job-name=eql", "--ntasks=16", "--ntasks-per-node=8"} <= set(lines)
    assert lines[lines.index("--qos") + 1] == "long"
    assert lines[-6:] == ["a config.py", "--work-dir", "out", "--amp", "--launcher", "slurm"]


ODD_NAME = """a 'b' "c" $(touch hacked) `touch hacked`; touch hacked & *?.py"""


@pytest.mark.parametrize("name", [ODD_NAME, "-rf", "--help"])
def test_launchers_take_names_as_names(run_tool, tmp_path, name):
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "bin" / "srun").symlink_to(stub)
    (tmp_path / name).write_text("")
    env = {"PYTHON": str(stub), "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    for tool, arguments, expected in (
        ("dist_train.sh", [name, 2, "--work-dir", name], 2),
        ("dist_test.sh", [name, name, 2, "--out", name], 3),
        ("slurm_train.sh", ["gpu", "job", name, name], 2),
        ("slurm_test.sh", ["gpu", "job", name, name], 2),
    ):
        result = run_tool(tool, *arguments, env=env)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines().count(name) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bin", name])


@pytest.mark.parametrize(
    ("tool", "option"),
    [("datasets/check.py", "--workers"), ("misc/merge_results.py", "--num-workers")],
)
def test_work_needs_a_process(tool, option, run_tool):
    done = run_tool(tool, "nothing", option, 0)
    assert done.returncode == 2
    assert f"{option}: invalid positive value: '0'" in done.stderr
