"""Measuring a part of the package beside its rivals.

A benchmark module has a function ``measure(quick: bool) -> list[Comparison]``, which ``run.py``
collects, and, where the number of categories matters, ``measure_growth(quick: bool) ->
list[Point]``. In most of them everything happens in one process:

    comparisons = compare(
        "EqualizationLoss",
        "1,024 x 1,230 logits, forward and backward",
        ours=lambda: step(loss),
        rivals={"cross-entropy": lambda: step(cross_entropy)},
        targets={"cross-entropy": Target(ratio=1 / 1.05)},
    )

What needs a process of its own, as start-up does, is compared by :func:`compare_runs` with
:func:`run_command`.

Time is measured in turns (ours, rival, ours, rival, ...), so that a neighbour who uses the machine
disturbs both; the ratio is the median over the turns. Wall-clock time is what a user waits for,
processor time is steadier on a busy machine. Memory is the most that was held beyond what was held
before, measured apart in a process of each one's own (Linux with glibc only; elsewhere it is
unknown). For the processor only: nothing here waits for a GPU.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
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
    """What one run took.

    Args:
        wall (float): Seconds.
        cpu (float): Processor time in seconds, of all threads.
        memory (float, optional): Most memory held beyond that before the run, in MiB.
    """

    wall: float
    cpu: float
    memory: float | None = None


@dataclass(frozen=True)
class Absent:
    """In place of a rival that cannot run here.

    Args:
        reason (str): For the reader, e.g. ``"faster-coco-eval is not installed"``.
    """

    reason: str


@dataclass(frozen=True)
class Target:
    """What is wanted of a comparison.

    Args:
        ratio (float, optional): Least time of the rival over ours.
        memory (float, optional): Most extra memory of ours in MiB.
        memory_ratio (float, optional): Least extra memory of the rival over ours.
    """

    ratio: float | None = None
    memory: float | None = None
    memory_ratio: float | None = None

    def __str__(self) -> str:
        wanted = []
        if self.ratio is not None:
            wanted.append(f"time >= {self.ratio:.3g}x")
        if self.memory is not None:
            wanted.append(f"memory <= {self.memory:,.0f} MiB")
        if self.memory_ratio is not None:
            wanted.append(f"memory >= {self.memory_ratio:.3g}x")
        return ", ".join(wanted)


@dataclass(frozen=True)
class Comparison:
    """Ours beside one rival.

    Args:
        part (str): Part of the package, e.g. ``"multiclass NMS"``.
        description (str): Sizes and what is done with them.
        rival (str): Its name.
        ours (list[Run]): One run for each turn.
        theirs (list[Run]): Likewise; empty if the rival is absent.
        target (Target): What is wanted.
        note (str): For the reader, such as why the rival is absent.
    """

    part: str
    description: str
    rival: str
    ours: list[Run]
    theirs: list[Run]
    target: Target = field(default_factory=Target)
    note: str = ""

    def seconds(self) -> tuple[float | None, float | None]:
        """Median wall-clock seconds of ours and of the rival."""
        return _median_of(self.ours, "wall"), _median_of(self.theirs, "wall")

    def memory(self) -> tuple[float | None, float | None]:
        """Median extra memory of ours and of the rival, in MiB."""
        return _median_of(self.ours, "memory"), _median_of(self.theirs, "memory")

    def ratio(self, quantity: str = "wall") -> tuple[float, float, float] | None:
        """The rival over ours, turn by turn.

        Args:
            quantity (str): ``"wall"`` or ``"cpu"``.

        Returns:
            tuple[float, float, float], optional: Lowest, median and highest; None without a rival.
        """
        if not self.theirs:
            return None
        ratios = [
            getattr(theirs, quantity) / getattr(ours, quantity)
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]
        return min(ratios), statistics.median(ratios), max(ratios)

    def met(self) -> bool | None:
        """Whether the target was met; None if there is none or it could not be measured."""
        ratio, (ours, theirs) = self.ratio(), self.memory()
        verdicts = []
        if self.target.ratio is not None:
            verdicts.append(None if ratio is None else ratio[1] >= self.target.ratio)
        if self.target.memory is not None:
            verdicts.append(None if ours is None else ours <= self.target.memory)
        if self.target.memory_ratio is not None:
            known = ours is not None and theirs is not None
            verdicts.append(theirs >= self.target.memory_ratio * ours if known else None)
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True

    def figures(self) -> dict:
        """Everything in plain types, for JSON."""
        (our_seconds, their_seconds), (our_memory, their_memory) = self.seconds(), self.memory()
        return {
            "part": self.part,
            "description": self.description,
            "rival": self.rival,
            "seconds": {"ours": our_seconds, "rival": their_seconds},
            "memory_mib": {"ours": our_memory, "rival": their_memory},
            "ratio": _by_name(self.ratio("wall")),
            "processor_ratio": _by_name(self.ratio("cpu")),
            "turns": len(self.ours),
            "target": str(self.target),
            "met": self.met(),
            "note": self.note,
        }


# --- set-up ---------------------------------------------------------------------------------------


def set_threads(number: int) -> None:
    """Let PyTorch and OpenCV use so many threads in this process; one gives the steadiest times."""
    import cv2
    import torch

    torch.set_num_threads(number)
    cv2.setNumThreads(number)


def argument_parser(description: str, quick: str) -> argparse.ArgumentParser:
    """The command line of a benchmark of one part, with ``--num-classes`` and ``--quick``.

    Args:
        description (str): Docstring of the script.
        quick (str): What ``--quick`` makes smaller.

    Returns:
        argparse.ArgumentParser: To which the script adds what is its own.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num-classes", type=positive, default=LVIS_CATEGORIES, help="default: %(default)s"
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1, as the type of an argument of a command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


# --- comparing ------------------------------------------------------------------------------------


def compare(
    part: str,
    description: str,
    ours: Workload,
    rivals: Mapping[str, Workload | Absent],
    targets: Mapping[str, Target] | None = None,
    repeats: int = 5,
    memory: bool = True,
) -> list[Comparison]:
    """Measure workloads in this process, in turns.

    Every workload runs once or twice to warm up first.

    Args:
        part (str): See :class:`Comparison`.
        description (str): See :class:`Comparison`.
        ours (Workload): Our part.
        rivals (Mapping[str, Workload | Absent]): By name, what it is compared with.
        targets (Mapping[str, Target], optional): By name of the rival.
        repeats (int): Number of turns.
        memory (bool): Whether to measure memory as well, which runs each workload three times more.

    Returns:
        list[Comparison]: One for each rival.
    """
    workloads = [ours, *(rival for rival in rivals.values() if not isinstance(rival, Absent))]
    # Before anything ran here: the children then start from the same state.
    peaks = {id(work): peak_memory(work) if memory else None for work in workloads}
    numbers = {id(work): _repetitions(work) for work in workloads}

    def runner(work: Workload) -> Callable[[], Run]:
        return lambda: _time(work, numbers[id(work)], peaks[id(work)])

    runners = {
        name: rival if isinstance(rival, Absent) else runner(rival)
        for name, rival in rivals.items()
    }
    return compare_runs(part, description, runner(ours), runners, targets, repeats)


def compare_runs(
    part: str,
    description: str,
    ours: Callable[[], Run],
    rivals: Mapping[str, Callable[[], Run] | Absent],
    targets: Mapping[str, Target] | None = None,
    repeats: int = 5,
) -> list[Comparison]:
    """Compare what measures itself, such as a process that :func:`run_command` starts, in turns.

    Args:
        part (str): See :class:`Comparison`.
        description (str): See :class:`Comparison`.
        ours (Callable[[], Run]): Runs our part once.
        rivals (Mapping[str, Callable[[], Run] | Absent]): Likewise, by name.
        targets (Mapping[str, Target], optional): By name of the rival.
        repeats (int): Number of turns.

    Returns:
        list[Comparison]: One for each rival.
    """
    our_runs: list[Run] = []
    runs: dict[str, list[Run]] = {name: [] for name in rivals}
    for _ in range(repeats):
        our_runs.append(ours())
        for name, rival in rivals.items():
            if not isinstance(rival, Absent):
                runs[name].append(rival())
    return [
        Comparison(
            part,
            description,
            name,
            our_runs,
            runs[name],
            (targets or {}).get(name, Target()),
            rival.reason if isinstance(rival, Absent) else "",
        )
        for name, rival in rivals.items()
    ]


# --- time -----------------------------------------------------------------------------------------


def _time(work: Workload, number: int, memory: float | None) -> Run:
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        if collects:
            gc.enable()
    return Run(wall / number, cpu / number, memory)


def _repetitions(work: Workload) -> int:
    """Warm up, and find how often a workload runs in a sample."""
    if _time(work, 1, None).wall > 10 * SHORTEST_SAMPLE:
        return 1
    return math.ceil(SHORTEST_SAMPLE / max(_time(work, 1, None).wall, 1e-6))


# --- memory ---------------------------------------------------------------------------------------


def peak_memory(work: Workload) -> float | None:
    """The most memory that a workload holds beyond what was held before it.

    It runs three times in a forked process on one thread: once to load and to allocate what stays,
    and twice measured, of which the lower figure counts. Freed memory is handed back in between,
    and the C library is told to map every large block by itself, so that memory which it keeps for
    later hides nothing.

    Args:
        work (Workload): What to run.

    Returns:
        float, optional: MiB; None where the system does not tell (it takes Linux and glibc).

    Raises:
        RuntimeError: If the workload fails.
    """
    libc = _glibc()
    if libc is None or not os.path.exists("/proc/self/clear_refs"):
        return None
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                pipe.write(repr(_peak_memory_here(work, libc)))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("a workload failed while its memory was measured; see above")
    return float(answer)


def _peak_memory_here(work: Workload, libc: ctypes.CDLL) -> float:
    with contextlib.suppress(ImportError):
        import torch

        # Threads do not survive a fork.
        torch.set_num_threads(1)
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


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None


def start_of_peak() -> float:
    """Memory of this process in MiB; the system looks for its peak anew from here on."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return held_memory("VmRSS")


def held_memory(field: str) -> float:
    """Memory of this process in MiB: ``"VmRSS"`` now, ``"VmHWM"`` at its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) / 1024


# --- processes of their own -----------------------------------------------------------------------

# A small process stands between: the system counts the memory of the process that forks as the
# child's, and this one may have grown large.
_LAUNCHER = """
import json, os, sys, time
output = os.open(os.devnull, os.O_WRONLY)
start = time.perf_counter()
child = os.posix_spawn(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)]
)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - start
if status:
    sys.exit(1)
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps({"wall": wall, "cpu": cpu, "memory": usage.ru_maxrss / 1024}))
"""


def run_command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command in a process and measure all of it.

    Args:
        command (Sequence[str]): Absolute path of a program, and its arguments. What it prints to
            the standard output is dropped.
        environment (Mapping[str, str], optional): Variables besides those of this process.

    Returns:
        Run: From start to exit; ``memory`` is all that the process held at its peak (on Linux).

    Raises:
        RuntimeError: If it fails, with what it wrote to the standard error.
    """
    report = reported_by([sys.executable, "-I", "-S", "-c", _LAUNCHER, *command], environment)
    return Run(report["wall"], report["cpu"], report["memory"])


def reported_by(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict:
    """Run a command that measures itself.

    Args:
        command (Sequence[str]): Program and arguments.
        environment (Mapping[str, str], optional): Variables besides those of this process. One
            thread is the default.

    Returns:
        dict: What the last line of its standard output holds, in JSON.

    Raises:
        RuntimeError: If it fails, with what it wrote to the standard error.
    """
    variables = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    done = subprocess.run(
        command, env={**variables, **(environment or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# --- growth with the number of categories ---------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A point of a plot of time against the number of categories.

    Args:
        part (str): Part of the package.
        name (str): ``"ours"`` or the name of a rival.
        num_classes (int): Number of categories.
        seconds (float): Median wall-clock seconds.
    """

    part: str
    name: str
    num_classes: int
    seconds: float


def growth(
    part: str,
    make: Mapping[str, Callable[[int], Workload]],
    numbers: Sequence[int] = NUMBERS_OF_CATEGORIES,
    repeats: int = 3,
    longest: float = 10.0,
) -> list[Point]:
    """Time workloads at several numbers of categories.

    Args:
        part (str): Part of the package.
        make (Mapping[str, Callable[[int], Workload]]): By name, ``"ours"`` among them, what makes
            a workload for a number of categories.
        numbers (Sequence[int]): Numbers of categories, ascending.
        repeats (int): Number of turns at each number.
        longest (float): Once a run of a workload took longer, in seconds, greater numbers are left
            out for it.

    Returns:
        list[Point]: The points.
    """
    points: list[Point] = []
    names = list(make)
    for number in numbers:
        workloads = {name: make[name](number) for name in names}
        samples = {name: [] for name in names}
        repetitions = {name: _repetitions(work) for name, work in workloads.items()}
        for _ in range(repeats):
            for name, work in workloads.items():
                samples[name].append(_time(work, repetitions[name], None).wall)
        for name in list(names):
            seconds = statistics.median(samples[name])
            points.append(Point(part, name, number, seconds))
            if seconds > longest:
                names.remove(name)
    return points


# --- the table ------------------------------------------------------------------------------------

_HEADER = ("part", "rival", "ours", "rival's", "ratio", "processor", "memory", "target", "met")


def table(comparisons: Sequence[Comparison], markdown: bool = False) -> str:
    """Render comparisons, a row each.

    Args:
        comparisons (Sequence[Comparison]): What was measured.
        markdown (bool): Whether to write a Markdown table instead of aligned text.

    Returns:
        str: Lines without a final newline. Ratios are the rival's time over ours, the median and
        the range over the turns.
    """
    rows = [_HEADER, *map(_cells, comparisons)]
    if markdown:
        rows.insert(1, ("---",) * len(_HEADER))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _cells(comparison: Comparison) -> tuple[str, ...]:
    ours, theirs = comparison.seconds()
    our_memory, their_memory = comparison.memory()
    memory = f"{_mib(our_memory)} : {_mib(their_memory)}"
    met = {True: "yes", False: "no", None: ""}[comparison.met()]
    return (
        f"{comparison.part}, {comparison.description}",
        comparison.rival + (f" ({comparison.note})" if comparison.note else ""),
        _duration(ours),
        _duration(theirs),
        _range(comparison.ratio("wall")),
        _range(comparison.ratio("cpu")),
        "-" if memory == "- : -" else memory,
        str(comparison.target),
        met,
    )


def _range(ratio: tuple[float, float, float] | None) -> str:
    if ratio is None:
        return "-"
    low, median, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in ratio)
    return f"{median} ({low} to {high})"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _mib(memory: float | None) -> str:
    return "-" if memory is None else f"{memory:,.0f} MiB"


def _median_of(runs: Sequence[Run], quantity: str) -> float | None:
    values = [getattr(run, quantity) for run in runs]
    return None if not values or None in values else statistics.median(values)


def _by_name(ratio: tuple[float, float, float] | None) -> dict[str, float] | None:
    return None if ratio is None else dict(zip(("low", "median", "high"), ratio, strict=True))
