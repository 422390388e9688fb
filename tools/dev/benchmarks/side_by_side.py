"""Measuring a part of the package beside its rivals.

A benchmark module has a function ``measure(quick: bool) -> list[Comparison]``, which ``run.py``
calls, and, where time depends on the number of categories, ``measure_growth(quick: bool) ->
list[Point]``. In most of them everything happens in one process:

    comparisons = compare(
        "mask head",
        "128 RoIs, 1,230 categories, forward + loss + backward",
        ours=step("ours"),
        rivals={"class-agnostic": step("class-agnostic")},
        targets={"class-agnostic": Target(ratio=1 / 1.15)},
    )

What needs a process of its own, as start-up does, measures itself (:func:`reported_by`).

Time is measured in turns (ours, rival, ours, rival, ...), so that a neighbour who uses the machine
disturbs both; the ratio is the median over the turns. Wall-clock time is what a user waits for,
processor time is steadier on a busy machine. Memory is the peak above what was held before, in a
process of each one's own (Linux with glibc only). Nothing here waits for a GPU.
"""

import ctypes
import gc
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

#: What is measured, after its set-up: called without arguments, as often as needed.
Workload = Callable[[], object]

#: A sample lasts at least as long, in seconds; short workloads are repeated in it.
SHORTEST_SAMPLE = 0.05
#: Numbers of categories of the growth plots: COCO, a subset, LVIS v0.5, and beyond LVIS.
NUMBERS_OF_CATEGORIES = (80, 400, 1230, 5000)
#: LVIS v0.5.
LVIS_CATEGORIES = 1230


@dataclass(frozen=True)
class Run:
    """Wall-clock and processor seconds of one run, and its peak of extra memory in MiB if known."""

    wall: float
    cpu: float
    memory: float | None = None


@dataclass(frozen=True)
class Target:
    """What is wanted of a comparison.

    Args:
        ratio (float, optional): Least time of the rival over ours.
        memory_ratio (float, optional): Least extra memory of the rival over ours.
    """

    ratio: float | None = None
    memory_ratio: float | None = None

    def __str__(self) -> str:
        wanted = {"time": self.ratio, "memory": self.memory_ratio}
        return ", ".join(f"{name} >= {v:.3g}x" for name, v in wanted.items() if v is not None)


@dataclass(frozen=True)
class Comparison:
    """Ours beside one rival."""

    part: str  #: Part of the package, e.g. "multiclass NMS".
    description: str  #: Sizes and what is done with them.
    rival: str
    ours: list[Run]  #: One for each turn.
    theirs: list[Run]  #: Likewise.
    target: Target = field(default_factory=Target)

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
        """Whether the target was met; None if there is none or it could not be measured."""
        memory, target = self.medians("memory"), self.target
        verdicts = []
        if target.ratio is not None:
            verdicts.append(self.ratio()["median"] >= target.ratio)
        if target.memory_ratio is not None:
            known = None not in memory.values()
            verdicts.append(
                memory["rival"] >= target.memory_ratio * memory["ours"] if known else None
            )
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True

    def figures(self) -> dict:
        """Everything in plain types, for JSON."""
        return {
            "part": self.part,
            "description": self.description,
            "rival": self.rival,
            "seconds": self.medians("wall"),
            "memory_mib": self.medians("memory"),
            "ratio": self.ratio("wall"),
            "processor_ratio": self.ratio("cpu"),
            "turns": len(self.ours),
            "target": str(self.target),
            "met": self.met(),
        }


# --- comparing ------------------------------------------------------------------------------------


def compare(
    part: str,
    description: str,
    ours: Workload,
    rivals: Mapping[str, Workload],
    targets: Mapping[str, Target] | None = None,
    repeats: int = 5,
    memory: bool = True,
) -> list[Comparison]:
    """Measure workloads in this process, in turns, after one or two runs to warm up.

    ``rivals`` and ``targets`` are by name; ``repeats`` is the number of turns. ``memory`` runs each
    workload three times more. Returns a comparison for each rival.
    """
    works = {"ours": ours, **rivals}
    # Before anything ran here: the children then start from the same state.
    peaks = {name: peak_memory(work) if memory else None for name, work in works.items()}
    numbers = {name: _repetitions(work) for name, work in works.items()}

    def runner(name: str) -> Callable[[], Run]:
        return lambda: _time(works[name], numbers[name], peaks[name])

    runners = {name: runner(name) for name in rivals}
    return compare_runs(part, description, runner("ours"), runners, targets, repeats)


def compare_runs(
    part: str,
    description: str,
    ours: Callable[[], Run],
    rivals: Mapping[str, Callable[[], Run]],
    targets: Mapping[str, Target] | None = None,
    repeats: int = 5,
) -> list[Comparison]:
    """Compare what measures itself, in turns; arguments and result as of :func:`compare`."""
    works, targets = {"ours": ours, **rivals}, targets or {}
    turns = [{name: work() for name, work in works.items()} for _ in range(repeats)]
    runs = {name: [turn[name] for turn in turns] for name in works}
    return [
        Comparison(part, description, name, runs["ours"], runs[name], targets.get(name, Target()))
        for name in rivals
    ]


def _time(work: Workload, number: int = 1, memory: float | None = None) -> Run:
    gc.collect(1)
    gc.disable()
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        gc.enable()
    return Run(wall / number, cpu / number, memory)


def _repetitions(work: Workload) -> int:
    """Warm up, and find how often a workload runs in a sample."""
    if _time(work).wall > 10 * SHORTEST_SAMPLE:
        return 1
    return math.ceil(SHORTEST_SAMPLE / max(_time(work).wall, 1e-6))


def reported_by(command: Sequence[str]) -> dict:
    """Run a command on one thread and return what its last line of output holds, in JSON.

    Raises:
        RuntimeError: It fails; with what it wrote to the standard error.
    """
    env = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# --- memory ---------------------------------------------------------------------------------------


def peak_memory(work: Workload) -> float | None:
    """Return the most memory in MiB that a workload holds beyond what was held before it.

    It runs three times in a forked process on one thread: once to load and to allocate what stays,
    and twice measured, of which the lower value counts. None without Linux and glibc.

    Raises:
        RuntimeError: The workload fails.
    """
    libc = ctypes.CDLL(None)
    if not os.path.exists("/proc/self/clear_refs") or not hasattr(libc, "malloc_trim"):
        return None
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(_peak_memory_here(work, libc)))
    # Threads do not survive a fork, and the child would wait for those of OpenCV.
    threads = set_threads(1, 1)
    child.start()
    writer.close()
    try:
        return reader.recv()
    except EOFError:
        raise RuntimeError("a workload failed while its memory was measured; see above") from None
    finally:
        child.join()
        set_threads(*threads)


def _peak_memory_here(work: Workload, libc: ctypes.CDLL) -> float:
    # Every large block is mapped by itself, and freed memory is handed back in between, so that
    # memory which the C library keeps for later hides nothing.
    m_mmap_threshold = -3
    libc.mallopt(m_mmap_threshold, 64 * 1024)
    work()
    peaks = []
    for _ in range(2):
        gc.collect()
        libc.malloc_trim(0)
        before = start_of_peak()
        work()
        peaks.append(held_memory("VmHWM") - before)
    return max(min(peaks), 0.0)


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


def set_threads(of_torch: int, of_opencv: int) -> tuple[int, int]:
    """Set the numbers of threads, and return those before; one gives the steadiest times."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(of_torch)
    cv2.setNumThreads(of_opencv)
    return before


# --- growth with the number of categories ---------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Median seconds of a part by name (``"ours"`` or a rival) at a number of categories."""

    part: str
    name: str
    num_classes: int
    seconds: float


def growth(
    part: str,
    make: Callable[[str, int], Workload],
    names: Sequence[str],
    numbers: Sequence[int] = NUMBERS_OF_CATEGORIES,
    repeats: int = 3,
    longest: float = 10.0,
) -> list[Point]:
    """Time what ``make`` gives for a name (``"ours"`` or a rival) and a number of categories.

    Once a workload takes longer than ``longest`` seconds, it is left out at the greater numbers.
    """
    points: list[Point] = []
    names = list(names)
    for number in numbers:
        works = {name: make(name, number) for name in names}
        repetitions = {name: _repetitions(work) for name, work in works.items()}
        turns = [
            {name: _time(work, repetitions[name]).wall for name, work in works.items()}
            for _ in range(repeats)
        ]
        for name in works:
            seconds = statistics.median(turn[name] for turn in turns)
            points.append(Point(part, name, number, seconds))
            if seconds > longest:
                names.remove(name)
    return points


# --- the table ------------------------------------------------------------------------------------

_HEADER = ("part", "rival", "ours", "rival's", "ratio", "processor", "memory", "target", "met")


def table(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons as a Markdown table, a row each, without final newline.

    Ratios are the rival's time over ours: the median and the range over the turns.
    """
    from mmdet_eql.runs.tables import markdown_table  # imports mmdet, which some workloads do not

    return markdown_table([_HEADER, *map(_cells, comparisons)])


def _cells(comparison: Comparison) -> tuple[str, ...]:
    memory = [f"{m:,.0f} MiB" for m in comparison.medians("memory").values() if m is not None]
    return (
        f"{comparison.part}, {comparison.description}",
        comparison.rival,
        *map(_duration, comparison.medians("wall").values()),
        _range(comparison.ratio("wall")),
        _range(comparison.ratio("cpu")),
        " : ".join(memory) or "-",
        str(comparison.target),
        {True: "yes", False: "no", None: ""}[comparison.met()],
    )


def _range(ratio: dict[str, float]) -> str:
    text = {k: f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for k, v in ratio.items()}
    return f"{text['median']} ({text['low']} to {text['high']})"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
