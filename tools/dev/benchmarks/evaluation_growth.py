"""Time of evaluation over the number of images, of detections and of categories, up to V3Det's.

    python tools/dev/benchmarks/evaluation_growth.py growth.json growth.png

Boxes of 200 images x 100 detections x 1,230 categories, and more or fewer of one of them, by the
evaluators of lvis_evaluation.py. One is left out at larger sizes once it takes 20 seconds of
processor time.
"""

import json
import sys
import tempfile
from dataclasses import asdict

from lvis_evaluation import EVALUATORS, make_files, runner
from side_by_side import plot_growth

from mmdet_eql.utils.files import write_text

BASE = {"images": 200, "detections": 100, "categories": 1230}
SIZES = {
    "images": (50, 200, 800),
    "detections": (30, 100, 300),
    "categories": (80, 400, 1230, 13_204),
}
LONGEST = 20.0  # seconds of processor time


def measure() -> list[dict]:
    """Return a row for each size and evaluator."""
    rows, known = [], {}
    for axis, sizes in SIZES.items():
        names = set(EVALUATORS)
        for size in sizes:
            case = {**BASE, axis: size}
            with tempfile.TemporaryDirectory() as folder:
                files = make_files(
                    folder, case["images"], "bbox", case["detections"], case["categories"]
                )
                for name in sorted(names):
                    key = (name, *case.values())
                    if key not in known:
                        known[key] = asdict(runner(name, "bbox", files)())
                    rows.append({"axis": axis, **case, "evaluator": name, **known[key]})
                    print(rows[-1], flush=True)
                    if known[key]["cpu"] > LONGEST:
                        names.remove(name)
    return rows


def panels_of(rows: list[dict]) -> dict[str, dict[str, dict[int, float]]]:
    """Seconds of processor time by what is fixed, evaluator and size."""
    panels = {}
    for axis in SIZES:
        fixed = " x ".join(f"{number:,} {name}" for name, number in BASE.items() if name != axis)
        curves = panels[fixed] = {name: {} for name in EVALUATORS}
        for row in rows:
            if row["axis"] == axis:
                curves[row["evaluator"]][row[axis]] = row["cpu"]
    return panels


if __name__ == "__main__":
    measured = measure()
    write_text(sys.argv[1], json.dumps(measured, indent=1) + "\n")
    plot_growth(panels_of(measured), list(SIZES), "seconds of processor time", sys.argv[2])
