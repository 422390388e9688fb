"""Check on a machine with one GPU what the CPU cannot show; eight minutes at most, no network.

    python tools/dev/gpu_check.py

For a machine that has PyTorch with CUDA, nvcc and ninja, perhaps in other versions than those
pinned; all else that the package imports, and pytest, must be importable. Where MMCV's operators
lack CUDA, NMS and RoIAlign are built from the sources in its package. Then come the tests marked
``gpu``, the losses beside the floor of the memory's bandwidth, and training and test step at 1,203
categories beside MMDetection's. Each stage is a process of its own; one that fails, or has no time
left, is named, and the rest goes on. Without a GPU everything runs small on the CPU: that checks
this script, and nothing else. No run on a GPU has confirmed it yet.
"""

import importlib
import os
import re
import statistics
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
        if "--build" in sys.argv:
            raise RuntimeError("--build")
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

    os.environ["GPU_CHECK_DEVICE"] = device()
    options = ["-q", "-m", "gpu", "--continue-on-collection-errors"]
    # Another file may need what is not installed there.
    folder = "tests" if device() == "cuda" else "tests/benchmarks"
    sys.exit(pytest.main([*options, "--rootdir", str(REPOSITORY), str(REPOSITORY / folder)]))


def seconds(work) -> float:
    """Median time of a workload in seven runs after three to warm up; on the CPU, in one."""
    import torch

    times, gpu = [], device() == "cuda"
    for _ in range(10 if gpu else 1):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:] or times)


def time_losses() -> None:
    """Forward and backward, of which the floor is to read each logit and write its gradient."""
    import torch
    from mmdet.registry import MODELS

    import mmdet_eql  # noqa: F401

    rows = 8192 if device() == "cuda" else 64
    for number in (80, 1203, 13_204):
        logits = torch.randn(rows, number, device=device(), requires_grad=True)
        labels = torch.randint(number + 1, (rows,), device=device())
        source, target = logits.detach(), torch.empty_like(logits.detach())
        floor = seconds(lambda a=target, b=source: a.copy_(b))
        for kind in ("EqualizationLoss", "EqualizationLossV2", "EqualizedFocalLoss"):
            loss = MODELS.build(dict(type=kind, num_classes=number, use_sigmoid=True)).to(device())
            if hasattr(loss, "set_class_frequency"):
                loss.set_class_frequency(torch.linspace(0, 0.01, number))
            took = seconds(lambda f=loss, x=logits, y=labels: torch.autograd.grad(f(x, y), x))
            share = f"copying takes {1e3 * floor:.3f} ms, {floor / took:.0%} of it"
            print(f"{kind}, {rows:,} x {number:,}: {1e3 * took:.3f} ms; {share}", flush=True)


def time_steps() -> None:
    """Training step with EQL beside softmax, and test step beside MMDetection's."""
    import testing
    import training

    number, size, proposals = 1203, (800, 1067), 1000
    if device() == "cpu":
        number, size, proposals = 40, (96, 128), 30
    for config in (training.EQL, training.EQL.replace("_eql", "")):
        model = training.make_model(config, number, 512 if proposals == 1000 else 16)
        took = seconds(training.step_of(model.to(device()), number))
        print(f"training step, {config}: {1e3 * took:.1f} ms", flush=True)
    for name in testing.CONFIG:
        model = testing.make_model(name, number, proposals).to(device())
        took = seconds(testing.make_test_step(model, size, "trained"))
        print(f"test step, {name}: {1e3 * took:.1f} ms", flush=True)


STAGES = {
    "operators": lambda: None,
    "tests": run_tests,
    "losses": time_losses,
    "steps": time_steps,
}

if __name__ == "__main__":
    stage = next((STAGES[name] for name in sys.argv[1:] if name in STAGES), None)
    if stage is None:
        main()
    else:
        load_operators()
        stage()
