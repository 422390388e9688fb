"""Measuring a part of the package beside its rivals, and beside what the machine can do at best.

A benchmark module has a function ``measure(quick: bool) -> list[Comparison]``, which ``run.py``
calls, and which calls :func:`compare`.

Time is measured in turns (ours, rival, ours, rival, ...), so that a neighbour who uses the machine
disturbs both. Wall-clock time is what a user waits for, processor time is steadier on a busy
machine. Memory is the peak above what was held before, in a process of each one's own. The limit is
the time that the work needs at least: its bytes at the bandwidth of copying a large array, its
multiplications at the rate of a matrix product, both measured in the same run.

With the environment variable BENCHMARK_DEVICE=cuda, models and tensors lie on the GPU: times are
then by wall clock alone, after all its work, and memory is what PyTorch allocates there.
"""

import ctypes
import gc
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

#: What is measured, after its set-up: called without arguments, as often as needed.
Workload = Callable[[], object]

#: A sample lasts at least as long, in seconds; short workloads are repeated in it.
SHORTEST_SAMPLE = 0.05
#: LVIS v0.5.
LVIS_CATEGORIES = 1230
#: Numbers of categories of the growth plot: COCO, a subset, LVIS v0.5, beyond it, V3Det.
NUMBERS_OF_CATEGORIES = (80, 400, LVIS_CATEGORIES, 5000, 13_204)
DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@dataclass(frozen=True)
class Run:
    """Wall-clock and processor seconds of one run, and its peak of extra memory in MiB if known."""

    wall: float
    cpu: float
    memory: float | None = None


@dataclass(frozen=True)
class Limit:
    """What any implementation must do: bytes read or written, and multiplications, once each."""

    bytes: float = 0
    multiplications: float = 0

    def seconds(self, rates: "Limit") -> float:
        """Least time at these rates, both a second: that of the slower of the two."""
        return max(self.bytes / rates.bytes, self.multiplications / rates.multiplications)


@dataclass(frozen=True)
class Comparison:
    """Ours beside one rival."""

    part: str  #: Part of the package, e.g. "multiclass NMS".
    description: str  #: Sizes and what is done with them.
    rival: str
    ours: list[Run]  #: One for each turn.
    theirs: list[Run]  #: Likewise.
    target: float | None = None  #: Least time of the rival over ours that is wanted.
    limit: Limit = Limit()
    size: tuple[str, int] | None = None  #: Axis and place in the plot of growth, if it is there.

    def medians(self, quantity: str) -> dict[str, float | None]:
        """Median wall, cpu or memory of ``"ours"`` and of the ``"rival"``; None if unknown."""
        values = {
            name: [getattr(run, quantity) for run in runs]
            for name, runs in (("ours", self.ours), ("rival", self.theirs))
        }
        return {k: None if None in v else statistics.median(v) for k, v in values.items()}

    def ratio(self, quantity: str = "wall") -> dict[str, float]:
        """Low, median and high of the rival over ours, turn by turn."""
        ratios = [
            getattr(theirs, quantity) / getattr(ours, quantity)
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]
        return {"low": min(ratios), "median": statistics.median(ratios), "high": max(ratios)}

    def met(self) -> bool | None:
        """Whether the target was met; None if there is none."""
        return None if self.target is None else self.ratio()["median"] >= self.target

    def reached(self, rates: Limit) -> float:
        """Least time over our processor time, 0 to 1."""
        return self.limit.seconds(rates) / self.medians("cpu")["ours"]

    def metrics(self, rates: Limit) -> dict:
        """Everything in plain types, for JSON."""
        return {
            **{name: getattr(self, name) for name in ("part", "description", "rival", "size")},
            "turns": len(self.ours),
            "seconds": self.medians("wall"),
            "ratio": self.ratio("wall"),
            "processor_seconds": self.medians("cpu"),
            "processor_ratio": self.ratio("cpu"),
            "memory_mib": self.medians("memory"),
            "limit_seconds": self.limit.seconds(rates),
            "reached": self.reached(rates),
            "target": self.target,
            "met": self.met(),
        }


# --- comparing ------------------------------------------------------------------------------------


def compare(
    part: str, description: str, works: Mapping[str, Workload], *options: Any, **further: Any
) -> list[Comparison]:
    """Measure workloads in this process, in turns, after one or two runs to warm up.

    Each is run three times more for its memory. Other arguments are those of :func:`compare_runs`.
    """
    # Before anything ran here: the children then start from the same state.
    peaks = {name: peak_memory(work) for name, work in works.items()}
    runs = {
        name: partial(_time, work, _repetitions(work), peaks[name]) for name, work in works.items()
    }
    return compare_runs(part, description, runs, *options, **further)


def compare_runs(
    part: str,
    description: str,
    works: Mapping[str, Callable[[], Run]],
    targets: Mapping[str, float] = MappingProxyType({}),
    repeats: int = 5,
    **of_row: Any,
) -> list[Comparison]:
    """Compare what measures itself, in turns, of which there are ``repeats``.

    ``works`` has ``"ours"`` and the rivals, ``targets`` are by rival. ``of_row`` are further fields
    of a :class:`Comparison`. Returns a comparison for each rival.
    """
    turns = [{name: work() for name, work in works.items()} for _ in range(repeats)]
    runs = {name: [turn[name] for turn in turns] for name in works}
    ours = runs.pop("ours")
    return [
        Comparison(part, description, name, ours, theirs, targets.get(name), **of_row)
        for name, theirs in runs.items()
    ]


def clocks() -> tuple[float, float]:
    """Return seconds by wall clock and of this process and its children; on a GPU both by wall
    clock."""
    if DEVICE == "cpu":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() + children.ru_utime + children.ru_stime
        return time.perf_counter(), cpu
    import torch

    torch.cuda.synchronize()
    return (time.perf_counter(),) * 2


def _time(work: Workload, number: int = 1, memory: float | None = None) -> Run:
    clock = timeit.Timer(work, timer=lambda: np.array(clocks()))  # pauses garbage collection
    return Run(*(clock.timeit(number) / number).tolist(), memory)


def _repetitions(work: Workload) -> int:
    """Warm up, and find how often a workload runs in a sample."""
    if _time(work).wall > 10 * SHORTEST_SAMPLE:
        return 1
    return math.ceil(SHORTEST_SAMPLE / max(_time(work).wall, 1e-6))


def measured(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What a function returns, and the fields of a :class:`Run` of it in this process."""
    before, start = start_of_peak(), clocks()
    result = work()
    wall, cpu = np.subtract(clocks(), start).tolist()
    return result, dict(wall=wall, cpu=cpu, memory=held_memory("VmHWM") - before)


def reported_by(command: Sequence[str]) -> dict:
    """What the last line of a command's output holds, in JSON; see :func:`output_of`."""
    return json.loads(output_of(command).splitlines()[-1])


def output_of(command: Sequence[str]) -> str:
    """Run a command on one thread; RuntimeError with its standard error if it fails."""
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


# --- memory ---------------------------------------------------------------------------------------


def peak_memory(work: Workload) -> float:
    """Return the most memory in MiB that a workload holds beyond what was held before it.

    It runs three times in a forked process, which needs one thread here (:func:`one_thread`): once
    to load and to allocate what stays, and twice measured, of which the lower value counts. On a
    GPU, it is the memory of PyTorch's allocator there.

    Raises:
        RuntimeError: The workload fails.
    """
    if DEVICE != "cpu":
        return _peak_memory_of_gpu(work)
    context = multiprocessing.get_context("fork")
    peak = context.Value("d")
    child = context.Process(target=lambda: setattr(peak, "value", _peak_memory_here(work)))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError("a workload failed while its memory was measured; see above")
    return peak.value


def _peak_memory_here(work: Workload) -> float:
    # Every large block is mapped by itself, and freed memory is handed back in between, so that
    # memory which the C library keeps for later hides nothing.
    libc, m_mmap_threshold = ctypes.CDLL(None), -3
    libc.mallopt(m_mmap_threshold, 64 * 1024)
    work()
    peaks = []
    for _ in range(2):
        gc.collect()
        libc.malloc_trim(0)
        peaks.append(measured(work)[1]["memory"])
    return max(min(peaks), 0.0)


def _peak_memory_of_gpu(work: Workload) -> float:
    import torch

    work()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def start_of_peak() -> float:
    """Return the memory of this process in MiB; the system looks for its peak anew from here on."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return held_memory("VmRSS")


def held_memory(field: str) -> float:
    """Return the memory of this process in MiB: ``"VmRSS"`` now, ``"VmHWM"`` at its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) / 1024


def one_thread() -> None:
    """Have PyTorch and OpenCV use one thread: the steadiest times, and one that outlasts a fork."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


# --- models ---------------------------------------------------------------------------------------


def build_model(config: Mapping) -> Any:
    """Build a model, or a head, of MMDetection, with weights that depend on nothing else."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    import mmdet_eql  # noqa: F401 (registers its parts)

    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # each initialised weight is a message
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.to(DEVICE)


# --- limits ---------------------------------------------------------------------------------------


def measure_rates() -> Limit:
    """Return the bytes and the multiplications of this machine in a second of processor time."""
    import torch

    source, side = torch.ones(2**25, device=DEVICE), 1024 if DEVICE == "cpu" else 8192
    target, matrix = torch.empty_like(source), torch.randn(side, side, device=DEVICE)
    copying = min(_time(lambda: target.copy_(source), 2).cpu for _ in range(5))
    product = min(_time(lambda: matrix @ matrix, 2).cpu for _ in range(5))
    return Limit(2 * source.nbytes / copying, side**3 / product)


def multiplications(work: Workload) -> float:
    """Return how many multiplications the matrix products and convolutions of a workload have."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


# --- the table ------------------------------------------------------------------------------------


def table(comparisons: Sequence[Comparison], rates: Limit) -> str:
    """Return comparisons as a Markdown table, a row each, without final newline.

    Ratios are the rival's time over ours: the median and the range over the turns. The limit is the
    least time at ``rates``, and what share of our processor time it is.
    """
    # Imports mmdet, which some workloads do not.
    from mmdet_eql.utils.markdown import markdown_table

    rows = [_cells(comparison, rates) for comparison in comparisons]
    return markdown_table([list(rows[0]), *(list(row.values()) for row in rows)])


def _cells(comparison: Comparison, rates: Limit) -> dict[str, str]:
    limit, times = comparison.limit.seconds(rates), comparison.medians("wall")
    memory = [f"{m:,.0f} MiB" for m in comparison.medians("memory").values() if m is not None]
    return {
        "part": f"{comparison.part}, {comparison.description}",
        "rival": comparison.rival,
        "ours": _duration(times["ours"]),
        "rival's": _duration(times["rival"]),
        "ratio": _range(comparison.ratio("wall")),
        "processor": _range(comparison.ratio("cpu")),
        "limit, reached": f"{_duration(limit)}, {comparison.reached(rates):.2g}" if limit else "-",
        "memory": " : ".join(memory) or "-",
        "target": "" if comparison.target is None else f">= {comparison.target:.3g}x",
        "met": {True: "yes", False: "no", None: ""}[comparison.met()],
    }


def _range(ratio: dict[str, float]) -> str:
    text = {k: f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for k, v in ratio.items()}
    return f"{text['median']} ({text['low']} to {text['high']})"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


# --- growth ---------------------------------------------------------------------------------------


def plot_growth(comparisons: Sequence[Comparison], path: str) -> None:
    """Draw processor time over size, on logarithmic axes, for each part and kind of size, as PNG.

    Raises:
        UserError: No comparison has a size, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    from mmdet_eql.utils.errors import UserError
    from mmdet_eql.utils.figure_file import RUN_COLOURS, RUN_MARKERS, save_figure

    panels: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in (row for row in comparisons if row.size):
        axis, number = row.size
        curves, seconds = panels.setdefault((row.part, axis), {}), row.medians("cpu")
        for name, key in (("ours", "ours"), (row.rival, "rival")):
            curves.setdefault(name, {})[number] = seconds[key]
    if not panels:
        raise UserError("--growth: no part among --parts is measured over its size.")
    columns, rows = min(len(panels), 3), math.ceil(len(panels) / 3)
    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), layout="constrained")
    for place, ((part, axis), curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_prop_cycle(color=RUN_COLOURS, marker=RUN_MARKERS)
        for name, curve in curves.items():
            axes.plot(curve.keys(), curve.values(), label=name)
        axes.set(xscale="log", yscale="log", title=part, xlabel=axis)
        axes.set_ylabel("seconds of processor time")
        axes.set_xticks(list(curves["ours"]), [f"{number:,}" for number in curves["ours"]])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    save_figure(figure, path, dpi=120)
