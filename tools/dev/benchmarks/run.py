"""Measure the parts of the package beside their rivals: time and memory, on this machine.

    python tools/dev/benchmarks/run.py --quick                       # all parts, a few minutes
    python tools/dev/benchmarks/run.py --markdown table.md --json figures.json
    python tools/dev/benchmarks/run.py --parts multiclass-nms mask-head --growth growth.png

A row compares a part with one rival: seconds of both, the rival's time over ours (the median and
the range over the turns, of wall-clock time and of processor time), the extra memory of both at
its peak, and the target with whether it was met. Rivals that are not installed are named.
side_by_side.py says how it is measured; the module of each part says what.
"""

import argparse
import importlib
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from side_by_side import set_threads, table

from mmdet_eql.utils.errors import UserError, exit_on_user_error
from mmdet_eql.utils.files import write_text

#: The parts and their modules, in the order of the table.
PARTS = {
    "multiclass-nms": "multiclass_nms",
    "mask-head": "mask_head",
    "lvis-evaluation": "lvis_evaluation",
    "start-up": "start_up",
    "samplers": "samplers",
    "training-pipeline": "training_pipeline",
    "test-step": "test_step",
    "training-step": "training_step",
    "gradient-record": "gradient_record",
    "dense-losses": "dense_losses",
    "many-categories": "many_categories",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"which to measure, among {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer turns")
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch (default: %(default)s, steadiest)"
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    parser.add_argument(
        "--growth", metavar="FILE", help="draw time over the number of categories as PNG"
    )
    return parser.parse_args()


@exit_on_user_error
def main() -> None:
    args = parse_args()
    for path in (args.markdown, args.json, args.growth):
        if path is not None and os.path.isdir(path):
            raise UserError(f"{path} is a folder; give the name of a file.")
    set_threads(args.threads, args.threads)
    machine = describe_machine(args.threads)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    modules = load_parts(args.parts)
    growing = [module for module in modules.values() if hasattr(module, "measure_growth")]
    if args.growth and not growing:
        raise UserError("--growth: no part among --parts depends on the number of categories.")
    comparisons = []
    for name, module in modules.items():
        start = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True)
        comparisons += module.measure(args.quick)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{table(comparisons)}", flush=True)
    points = [
        point
        for module in (growing if args.growth else ())
        for point in module.measure_growth(args.quick)
    ]
    if args.markdown:
        lines = [f"- {name}: {value}" for name, value in machine.items()]
        write_text(args.markdown, "\n".join([table(comparisons), "", *lines, ""]))
    if args.json:
        figures = {
            "machine": machine,
            "comparisons": [comparison.figures() for comparison in comparisons],
            "growth": [asdict(point) for point in points],
        }
        write_text(args.json, json.dumps(figures, indent=2) + "\n")
    if args.growth:
        from growth_plot import plot_growth

        plot_growth(points, args.growth)


def load_parts(names: Sequence[str]) -> dict[str, ModuleType]:
    """Import the modules of parts; those that need what is not installed are named and left out.

    Raises:
        UserError: If none is left.
    """
    modules = {}
    for name in names:
        try:
            modules[name] = importlib.import_module(PARTS[name])
        except ModuleNotFoundError as error:
            print(f"{name} is left out: there is no module {error.name!r}.", flush=True)
    if not modules:
        raise UserError("--parts: none of the parts can be measured here; install what they need.")
    return modules


def describe_machine(threads: int) -> dict[str, str]:
    """What the results depend on, by name."""
    import mmcv
    import mmdet
    import mmengine
    import numpy
    import torch

    import mmdet_eql

    versions = {"mmdet-eql": mmdet_eql, "PyTorch": torch, "mmdet": mmdet, "mmcv": mmcv}
    versions |= {"mmengine": mmengine, "NumPy": numpy}
    cpuinfo = Path("/proc/cpuinfo")  # Linux only
    models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    processor = [*models, platform.processor(), platform.machine()][0]
    return {
        "processor": f"{processor}, {os.cpu_count()} cores, {threads} thread(s) used",
        "load": f"{os.getloadavg()[0]:.2f} over the last minute, before the measurements",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {module.__version__}" for name, module in versions.items()),
    }


if __name__ == "__main__":
    main()
