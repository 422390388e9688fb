"""Check on a machine with one GPU what the CPU cannot show; eight minutes at most, no network.

    python tools/dev/gpu_check.py

For a machine that has PyTorch with CUDA, nvcc and ninja, perhaps in other versions than those
pinned; all else that the package imports, and pytest, must be importable. Where MMCV's operators
lack CUDA, NMS and RoIAlign are built from the sources in its package. Then come the tests marked
``gpu`` and three parts of the benchmarks. Each stage is a process of its own; one that fails, or
has no time left, is named, and the rest goes on. Without a GPU it all runs on the CPU, the
benchmarks with --quick: that checks this script, and nothing else. No run on a GPU has confirmed it
yet.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 470
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tools" / "dev" / "benchmarks")]


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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


# --- MMCV's operators -----------------------------------------------------------------------------


def load_operators() -> None:
    """Have mmcv.ops use NMS and RoIAlign that run here; its other operators may be missing."""
    import torch

    boxes, scores = torch.ones(1, 4, device=device()), torch.ones(1, device=device())
    try:
        importlib.import_module("mmcv._ext").nms(boxes, scores, iou_threshold=0.5, offset=0)
        print("MMCV's own operators are used")
    except (ImportError, RuntimeError) as error:
        print(f"MMCV's own operators cannot be used here: {str(error).splitlines()[0]}")
        operators = build_operators()
        operators.nms(boxes, scores, iou_threshold=0.5, offset=0)
        sys.modules["mmcv._ext"] = operators


class Operators(ModuleType):
    """The operators that are built; any other one fails when it is called, not when imported."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"mmcv._ext.{name} is not built")

        return missing


def build_operators() -> Operators:
    """Build NMS and RoIAlign from the sources in MMCV's package, for the GPU if there is one."""
    import mmcv
    from torch.utils.cpp_extension import load

    source, gpu = Path(mmcv.__file__).parent / "ops" / "csrc", device() == "cuda"
    files = ("nms", "roi_align")
    names = r"(?:nms|roi_align_forward|roi_align_backward)"
    # One file, since nearly all of the time goes into PyTorch's headers.
    text = ["#include <torch/extension.h>"]
    for folder in ("pytorch", "pytorch/cpu"):
        text += [f'#include "{source}/{folder}/{name}.cpp"' for name in files]
    if gpu:
        cuda = (source / "pytorch" / "cuda" / "cudabind.cpp").read_text()
        inner = rf"(?:{names}_(?:impl|cuda)|(?:NMS|ROIAlign(?:Forward|Backward))CUDAKernelLauncher)"
        function = rf"^(?:Tensor|void) {inner}\([^;{{]*\)(?:;|\s*\{{.*?^\}})"
        text += re.findall(function, cuda, re.M | re.S)
        text += re.findall(rf"^REGISTER_DEVICE_IMPL\({names}_impl, CUDA,[^;]*;", cuda, re.M)
    pybind = (source / "pytorch" / "pybind.cpp").read_text()
    text += ["PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {"]
    text += [*re.findall(rf'm\.def\("{names}",[^;]*;', pybind), "}"]
    folder = Path(tempfile.gettempdir()) / f"gpu_check_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    binding = folder / "binding.cpp"
    if not binding.exists() or binding.read_text() != "\n".join(text):
        binding.write_text("\n".join(text))
    built = load(
        "gpu_check_operators",
        [str(binding), *(f"{source}/pytorch/cuda/{name}_cuda.cu" for name in files if gpu)],
        extra_include_paths=[f"{source}/common", f"{source}/common/cuda"],
        extra_cflags=["-O1", *(["-DMMCV_WITH_CUDA"] if gpu else [])],
        extra_cuda_cflags=["-DMMCV_WITH_CUDA"],
        build_directory=str(folder),
        with_cuda=gpu,
    )
    operators = Operators("mmcv._ext")
    vars(operators).update({name: value for name, value in vars(built).items() if name[0] != "_"})
    return operators


# --- the stages -----------------------------------------------------------------------------------


def run_tests() -> None:
    import pytest

    options = ["-q", "-m", "gpu", "--continue-on-collection-errors"]
    # Another file may need what is not installed there.
    folder = "tests" if device() == "cuda" else "tests/benchmarks"
    sys.exit(pytest.main([*options, "--rootdir", str(REPOSITORY), str(REPOSITORY / folder)]))


def run_benchmark(part: str) -> None:
    import run

    sys.argv = ["run.py", "--parts", part, *(["--quick"] if device() == "cpu" else [])]
    run.main()


STAGES = {
    "operators": lambda: None,
    "tests": run_tests,
    "losses": lambda: run_benchmark("losses"),
    "training": lambda: run_benchmark("training"),
    "testing": lambda: run_benchmark("testing"),
}

if __name__ == "__main__":
    os.environ["BENCHMARK_DEVICE"] = device()
    stage = next((STAGES[name] for name in sys.argv[1:] if name in STAGES), None)
    if stage is None:
        main()
    else:
        load_operators()
        stage()
