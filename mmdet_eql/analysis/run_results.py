"""The figures of a run, from the logs that mmengine leaves in its work_dir.

mmengine gives every start of ``train.py`` or ``test.py`` a folder of its own in the work_dir, named
after the time::

    work_dir/20250131_120000/vis_data/scalars.json      training losses and validation figures, one
                                                        JSON object per line
    work_dir/20250131_130000/20250131_130000.json       figures of a test, one JSON object
"""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmdet_eql.errors import UserError

_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
# Names carry the metric's prefix ("lvis/"), and the loop's ("val/") if the log processor keeps it.
_FIGURE = re.compile(r"(?:[^/]*/)*(bbox|segm)_(AP\w*|AR\w*@\d+)")
_CATEGORY = re.compile(r"(?:[^/]*/)*?(bbox|segm)_(.+)_precision")


@dataclass(frozen=True)
class RunResult:
    """What the last evaluation in a work_dir found.

    Args:
        work_dir (Path): Folder of the run.
        path (Path): The log that the figures come from.
        figures (dict[str, dict[str, float]]): By ``"bbox"`` or ``"segm"``, the figures by name,
            such as ``figures["bbox"]["APr"]``: fractions in [0, 1], or NaN where there is no ground
            truth.
        category_ap (dict[str, dict[str, float]]): By ``"bbox"`` or ``"segm"``, the AP of each
            category by its name, as above. Empty if the metric was not asked for it
            (``classwise=True``).
    """

    work_dir: Path
    path: Path
    figures: dict[str, dict[str, float]]
    category_ap: dict[str, dict[str, float]]


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training has come, by its last log line.

    Args:
        iteration (int): Number of iterations done.
        seconds_per_iteration (float): Mean over the last ones.
    """

    iteration: int
    seconds_per_iteration: float


def load_run(work_dir: str | os.PathLike) -> RunResult:
    """Read the figures of the last evaluation in a work_dir, by ``train.py`` or ``test.py``.

    A log whose last line is broken off, as a killed run leaves it, is read up to that line.

    Args:
        work_dir (str | os.PathLike): Folder of the run.

    Returns:
        RunResult: The figures.

    Raises:
        UserError: If the folder does not exist or no evaluation in it was finished.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f"{work_dir}: no such folder; give the work_dir of a run.")
    result = find_result(work_dir)
    if result is None:
        raise UserError(
            f"{work_dir}: holds no figures of a finished evaluation; train with validation or run "
            "tools/test.py with this --work-dir, and with a LocalVisBackend in 'vis_backends'."
        )
    return result


def find_result(work_dir: str | os.PathLike) -> RunResult | None:
    """As :func:`load_run`, for a run that may not have been evaluated yet.

    Args:
        work_dir (str | os.PathLike): Folder of the run; it need not exist.

    Returns:
        RunResult | None: The figures, or None if there are none.
    """
    for start in _starts(work_dir):
        for path in (start / f"{start.name}.json", start / "vis_data" / "scalars.json"):
            for record in reversed(_read_records(path)):
                figures, category_ap = _parse_figures(record)
                if figures:
                    return RunResult(Path(work_dir), path, figures, category_ap)
    return None


def find_progress(work_dir: str | os.PathLike) -> TrainingProgress | None:
    """How far the last started training in a work_dir has come.

    Args:
        work_dir (str | os.PathLike): Folder of the run; it need not exist.

    Returns:
        TrainingProgress | None: The progress; None until the last start has logged an iteration.
    """
    for start in _starts(work_dir):
        for record in reversed(_read_records(start / "vis_data" / "scalars.json")):
            if "loss" in record and "step" in record:
                return TrainingProgress(int(record["step"]), float(record.get("time", math.nan)))
        return None
    return None


def _starts(work_dir: str | os.PathLike) -> Iterator[Path]:
    """Folders of the starts in a work_dir, the latest first."""
    try:
        names = sorted(os.listdir(work_dir), reverse=True)
    except OSError:
        return
    yield from (Path(work_dir) / name for name in names if _TIMESTAMP.fullmatch(name))


def _read_records(path: Path) -> list[dict]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    records = []
    for line in text.splitlines():
        # A run that was killed leaves half a line; the next start writes a file of its own.
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _parse_figures(record: dict) -> tuple[dict, dict]:
    figures, category_ap = {}, {}
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        # LVIS writes -1 where there is nothing to find.
        value = float(value) if value >= 0 else math.nan
        if match := _CATEGORY.fullmatch(key):
            category_ap.setdefault(match[1], {})[match[2]] = value
        elif match := _FIGURE.fullmatch(key):
            figures.setdefault(match[1], {})[match[2]] = value
    return figures, category_ap
