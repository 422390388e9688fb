"""Measure the parts of the package beside their rivals: time and memory, on this machine.

    python tools/dev/benchmarks/run.py --quick                       # all parts, a few minutes
    python tools/dev/benchmarks/run.py --json figures.json --growth growth.png
    python tools/dev/benchmarks/run.py --parts losses training

A row of the table, in Markdown, compares a part with one rival, as docs/speed.md explains.
side_by_side.py says how it is measured; the module of each part says what.
"""

import argparse
import importlib
import json
import os
import platform
import re
import time
from pathlib import Path

from side_by_side import measure_rates, one_thread, plot_growth, table

from mmdet_eql.utils.errors import UserError, exit_on_user_error
from mmdet_eql.utils.files import write_text

#: The modules of the parts, in the order of the table.
PARTS = (
    "testing",
    "training",
    "losses",
    "training_pipeline",
    "loading",
    "starting",
    "lvis_evaluation",
)


def parse_args() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer turns")
    parser.add_argument("--json", metavar="FILE", help="write all metrics as JSON")
    parser.add_argument("--growth", metavar="FILE", help="draw time over sizes as PNG")
    return parser.parse_args()


@exit_on_user_error
def main() -> None:
    args = parse_args()
    for path in (args.json, args.growth):
        if path is not None and os.path.isdir(path):
            raise UserError(f"{path} is a folder; give the name of a file.")
    one_thread()
    machine, rates = describe_machine(), measure_rates()
    machine["rates"] = (
        f"{rates.bytes / 1e9:.1f} GB/s of copying, {rates.multiplications / 1e9:.1f} billion "
        "multiplications/s of a matrix product, by processor time"
    )
    print("\n".join(f"- {name}: {value}" for name, value in machine.items()), flush=True)
    comparisons = []
    for part in args.parts:
        start = time.perf_counter()
        print(f"{part} ...", end=" ", flush=True)
        comparisons += importlib.import_module(part).measure(args.quick)
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{table(comparisons, rates)}", flush=True)
    if args.json:
        rows = [comparison.metrics(rates) for comparison in comparisons]
        text = json.dumps({"machine": machine, "comparisons": rows}, indent=2)
        write_text(args.json, text + "\n")
    if args.growth:
        plot_growth(comparisons, args.growth)


def describe_machine() -> dict[str, str]:
    """What the results depend on, by name."""
    names = ("mmdet_eql", "torch", "mmdet", "mmcv", "mmengine", "numpy")
    versions = (f"{name} {importlib.import_module(name).__version__}" for name in names)
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": f"{[*models, platform.machine()][0]}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.2f} over the last minute, before the measurements",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
    }


if __name__ == "__main__":
    main()
