"""Check on a machine with one GPU what the CPU cannot show; eight minutes at most, no network.

    python tools/dev/gpu_check.py

For a machine that has PyTorch with CUDA and torchvision, perhaps in other versions than those
pinned; all else that the package imports, and pytest, must be importable. Where MMCV's operators
lack CUDA, NMS and RoIAlign are torchvision's. The tests marked ``gpu`` and three parts of the
benchmarks are run, each in a process of its own; one that fails, or has no time left, is named, and
the rest goes on. Without a GPU it all runs on the CPU, the benchmarks with --quick: that checks
this script, and nothing else. No run on a GPU has confirmed it yet.
"""

import importlib
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 470
GPU = torch.cuda.is_available()
QUICK = () if GPU else ("--quick",)
TESTS = str(REPOSITORY / "tests" / "benchmarks" / "test_gpu.py")
#: Modules, and what they are run with.
STAGES = {
    "tests": ("pytest", "-q", "-m", "gpu", "--rootdir", str(REPOSITORY), TESTS),
    **{part: ("run", "--parts", part, *QUICK) for part in ("losses", "training", "testing")},
}


def main() -> None:
    end, failed = time.monotonic() + SECONDS, []
    for name in STAGES:
        print(f"\n== {name}", flush=True)
        try:
            left = end - time.monotonic()
            code = subprocess.run([sys.executable, __file__, name], timeout=left).returncode
        except subprocess.TimeoutExpired:
            code = "no time left"
        if code:
            failed.append(f"{name} ({code})")
    print("\nfailed: " + ", ".join(failed) if failed else "\nall stages passed")
    sys.exit(bool(failed))


def run_stage(name: str) -> None:
    os.environ["BENCHMARK_DEVICE"] = "cuda" if GPU else "cpu"
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools" / "dev" / "benchmarks")]
    load_operators()
    sys.argv = list(STAGES[name])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


# --- MMCV's operators -----------------------------------------------------------------------------


def load_operators() -> None:
    """Have mmcv.ops use torchvision's NMS and RoIAlign where its own do not run."""
    device = "cuda" if GPU else "cpu"
    boxes, scores = torch.ones(1, 4, device=device), torch.ones(1, device=device)
    try:
        importlib.import_module("mmcv._ext").nms(boxes, scores, iou_threshold=0.5, offset=0)
        print("MMCV's own operators are used")
    except (ImportError, RuntimeError) as error:
        print(f"MMCV's own operators cannot be used here: {str(error).splitlines()[0]}")
        importlib.import_module("torchvision")
        sys.modules["mmcv._ext"] = Operators("mmcv._ext")


class Operators(ModuleType):
    """torchvision's by MMCV's names; others fail when they are called, not when imported."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"mmcv._ext.{name} is not there")

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        return torch.ops.torchvision.nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(features: Tensor, rois: Tensor, output: Tensor, *_, **options) -> None:
        size, further = _options_of_torchvision(options)
        output.copy_(torch.ops.torchvision.roi_align(features, rois, *size, *further))

    @staticmethod
    def roi_align_backward(gradient: Tensor, rois: Tensor, *maxima_and_target, **options) -> None:
        target = maxima_and_target[-1]
        size, further = _options_of_torchvision(options)
        backward = torch.ops.torchvision._roi_align_backward
        target.copy_(backward(gradient, rois, *size, *target.shape, *further))


def _options_of_torchvision(options: dict) -> tuple[list, list]:
    size = [options[key] for key in ("spatial_scale", "aligned_height", "aligned_width")]
    return size, [options["sampling_ratio"], options["aligned"]]


if __name__ == "__main__":
    run_stage(sys.argv[1]) if sys.argv[1:] else main()
