"""What makes a sweep file a study: the data of its runs, what they begin from, and its tables.

``tools/run_study.py`` runs one. Its section of ``configs/studies/classifiers.yaml``::

    study:
      core_hours: 3.5
      data: {folder: classifiers, num_train_images: 20000, num_val_images: 1000}
      first_stage:
        file: classifiers-first-stage.yaml
        folder: classifiers/first_stage
        processes: 2
        data: {folder: minilvis-study/balanced, num_train_images: 4000, steepness: 0}
      features: {rois: 32}
      tables: {losses: [sigmoid, EQL]}
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mmdet_eql.runs.sweep_file import read_sweep_file
from mmdet_eql.utils.errors import UserError


@dataclass(frozen=True)
class FirstStage:
    """The training that all runs of a study begin from.

    Args:
        file (str): Sweep file with one run, beside that of the study.
        data (Mapping[str, Any]): As those of :class:`Study`.
        folder (str, optional): Its folder in ``work_dirs``. Defaults to ``first_stage`` in that of
            the study.
        processes (int): Of the training, among which an iteration is shared out.
    """

    file: str
    data: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    processes: int = 1


@dataclass(frozen=True)
class Study:
    """The section ``study`` of a sweep file.

    Args:
        core_hours (str | float): What it takes, for readers.
        data (Mapping[str, Any]): ``folder`` in the data folder, and options of
            ``tools/datasets/make_minilvis.py`` or, for an ``.npz`` file, of
            ``make_minilvis_crops.py``. A value such as ``$NAME`` is a path in an environment
            variable. Defaults to data that are there.
        sets (Mapping[str, Mapping]): Further options of several sets, by name; the runs are trained
            on each.
        first_stage (FirstStage, optional): What comes first.
        features (Mapping[str, Any], optional): Options of ``tools/cache_features.py``, to train
            classifiers on the features of the first stage.
        folder (str, optional): Folder in ``work_dirs``. Defaults to the name of the file.
        tables (Mapping[str, Sequence[str]]): Names of runs without their seed, that of the baseline
            first, by the name of the table.
        image_bins (Sequence[int]): Bounds, to compare categories by their training images, too.
        gradients (Sequence[str]): Runs whose ratios of gradients are drawn.
        pictures (bool): Whether to add intervals over images, a plot and detections in images.
    """

    core_hours: str | float
    data: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    first_stage: FirstStage | None = None
    features: Mapping[str, Any] | None = None
    folder: str | None = None
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    image_bins: Sequence[int] = ()
    gradients: Sequence[str] = ()
    pictures: bool = False


def read_study(path: str | os.PathLike) -> Study:
    """Read the section of a sweep file; a UserError if there is none, or an unknown key."""
    section = read_sweep_file(path).get("study")
    if not isinstance(section, Mapping):
        raise UserError(f"{path}: has no section 'study'; train its runs by tools/sweep.py.")
    if "first_stage" in section:
        first_stage = _filled(FirstStage, section["first_stage"], f"{path}: study.first_stage")
        section = {**section, "first_stage": first_stage}
    return _filled(Study, section, f"{path}: study")


def _filled(kind: type, values: Mapping[str, Any], where: str) -> Any:
    names = [one.name for one in fields(kind)]
    if unknown := [key for key in values if key not in names]:
        raise UserError(f"{where} has no key {unknown[0]!r}; give {', '.join(names)}.")
    try:
        return kind(**values)
    except TypeError:
        raise UserError(f"{where} lacks a key; see docs/sweeps.md.") from None
