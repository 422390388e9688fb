"""Metrics of a run, from the logs that mmengine leaves in its work_dir.

Every start of ``train.py`` or ``test.py`` has a folder of its own, named after the time::

    work_dir/20250131_120000/vis_data/scalars.json      losses and validations, a JSON object a line
    work_dir/20250131_120000/vis_data/config.py         the config
    work_dir/20250131_130000/20250131_130000.json       metrics of a test, one JSON object
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmdet_eql.utils.errors import UserError

_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
_PROCESSES, _HEAD = re.compile(rb"^ *GPU number: (\d+)$", re.MULTILINE), 1 << 16
_RESUMED = re.compile(r"^resume ?= ?True$", re.MULTILINE)
# Names carry the metric's prefix ("lvis/"), and the loop's ("val/") if the log processor keeps it.
_METRIC = re.compile(
    r"(?:[^/]*/)*(?:((?:bbox|segm|boundary)(?:_fixed|_pooled)?)_(AP\w*|AR\w*@\d+)|"
    r"(accuracy)/(top\d+|many|medium|few))"
)
_CATEGORY = re.compile(
    r"(?:[^/]*/)*?(?:(bbox|segm|boundary)_(.+)_precision|(accuracy)/(.+)_accuracy)"
)


@dataclass(frozen=True)
class RunResult:
    """The last evaluation in a work_dir.

    Args:
        figures (dict[str, dict[str, float]]): Metrics by kind, such as ``"bbox"``, ``"segm"``,
            ``"bbox_fixed"`` (Fixed AP) or ``"accuracy"``, and name, such as
            ``figures["bbox"]["APr"]``: fractions, NaN without ground truth.
        category_ap (dict[str, dict[str, float]]): The same of each category by name. Empty unless
            the evaluator has ``classwise=True``.
        split (str): ``"val"`` of a training, or ``"test"``.
    """

    figures: dict[str, dict[str, float]]
    category_ap: dict[str, dict[str, float]]
    split: str = "val"


def load_run(work_dir: str | os.PathLike) -> RunResult:
    """Read the metrics of the last evaluation in a work_dir, by ``train.py`` or ``test.py``.

    Raises:
        UserError: If the folder does not exist or no evaluation in it was finished.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f"{work_dir}: no such folder; give the work_dir of a run.")
    for start in starts(work_dir):
        scalars = start / "vis_data" / "scalars.json"
        for path in (start / f"{start.name}.json", scalars):
            for record in reversed(_read_records(path)):
                result = _parse_metrics(record)
                if result.figures:
                    return replace(result, split="val" if scalars.is_file() else "test")
    raise UserError(
        f"{work_dir}: holds no metrics of a finished evaluation; train with validation or run "
        "tools/test.py with this --work-dir, and with a LocalVisBackend in 'vis_backends'."
    )


def learning_curve(work_dir: str | os.PathLike) -> list[tuple[int, dict]]:
    """Read step (iterations or epochs, as logged) and metrics of all validations of a training.

    By increasing step, over all starts since it began. What came later in a start than where the
    next one goes on is left out. The folder need not exist.
    """
    curve = []
    for start in reversed(list(starts(work_dir))):
        for record in _read_records(start / "vis_data" / "scalars.json"):
            figures, step = _parse_metrics(record).figures, record.get("step")
            if figures and isinstance(step, int):
                curve = [*(point for point in curve if point[0] < step), (step, figures)]
    return curve


def number_of_processes(work_dir: str | os.PathLike) -> int | None:
    """Return how many processes trained in a work_dir, as mmengine logs it; None if it is not
    there."""
    for start in starts(work_dir):
        if (start / "vis_data" / "scalars.json").is_file():
            with contextlib.suppress(OSError), open(start / f"{start.name}.log", "rb") as log:
                if found := _PROCESSES.search(log.read(_HEAD)):
                    return int(found[1])
    return None


def starts(work_dir: str | os.PathLike) -> Iterator[Path]:
    """Yield the folders of the starts in a work_dir, the latest first, back to where its training
    began: one that was not resumed has nothing of what the folder held before."""
    try:
        names = sorted(os.listdir(work_dir), reverse=True)
    except OSError:
        return
    for start in (Path(work_dir) / name for name in names if _TIMESTAMP.fullmatch(name)):
        yield start
        logs = start / "vis_data"
        if (logs / "scalars.json").is_file() and (logs / "config.py").is_file():
            config = (logs / "config.py").read_text(encoding="utf-8", errors="replace")
            if not _RESUMED.search(config):
                return


def _read_records(path: Path) -> list[dict]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):  # half a line of a run that was killed
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _parse_metrics(record: dict) -> RunResult:
    result = RunResult({}, {})
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        # LVIS writes -1 where there is no ground truth.
        value = float(value) if value != -1 else math.nan
        for pattern, found in ((_CATEGORY, result.category_ap), (_METRIC, result.figures)):
            if match := pattern.fullmatch(key):
                kind, name = (group for group in match.groups() if group is not None)
                # Accuracies are logged in percent. Of several evaluators the first one counts.
                value = value / 100 if kind == "accuracy" else value
                found.setdefault(kind, {}).setdefault(name, value)
                break
    return result
