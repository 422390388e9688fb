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
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from mmdet_eql.runs.sweep_file import read_sweep_file
from mmdet_eql.utils.errors import UserError


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuses unknown keys and values of other types."""


class FirstStage(_Section, frozen=True):
    """The training that all runs of a study begin from.

    Args:
        file (str): Sweep file with one run, beside that of the study.
        data (Mapping[str, Any]): As those of :class:`Study`.
        folder (str, optional): Its folder in ``work_dirs``. Defaults to ``first_stage`` in that of
            the study.
        processes (int): Of the training, among which an iteration is shared out.
    """

    file: str
    data: Mapping[str, Any] = {}
    folder: str | None = None
    processes: int = 1


class Features(_Section, frozen=True):
    """Options of ``tools/cache_features.py``."""

    rois: int | None = None
    flips: bool = False
    dtype: Literal["float16", "float32"] = "float16"


class Study(_Section, frozen=True):
    """The section ``study`` of a sweep file.

    Args:
        core_hours (str | float): What it takes, for readers.
        data (Mapping[str, Any]): ``folder`` in the data folder, and options of
            ``tools/datasets/make_minilvis.py`` or, for an ``.npz`` file, of
            ``make_minilvis_crops.py``. A value such as ``$NAME`` is a path in an environment
            variable. Defaults to data that are there.
        sets (Mapping[str, Mapping]): Further options of several sets, by name; the runs are trained
            on each.
        first_stage (FirstStage, optional): What comes first. Its weights are the ``load_from`` of
            the runs.
        features (Features, optional): To train classifiers on the features of the first stage
            instead.
        folder (str, optional): Folder in ``work_dirs``. Defaults to the name of the file.
        tables (Mapping[str, Sequence[str]]): Names of runs without their seed, that of the baseline
            first, by the name of the table.
        image_bins (Sequence[int]): Bounds, to compare categories by their training images, too.
        gradients (Sequence[str]): Runs whose ratios of gradients are drawn.
        pictures (bool): Whether to add intervals over images, a plot and detections in images.
    """

    core_hours: str | int | float
    data: Mapping[str, Any] = {}
    sets: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=lambda: {"": {}})
    first_stage: FirstStage | None = None
    features: Features | None = None
    folder: str | None = None
    tables: Mapping[str, Sequence[str]] = {}
    image_bins: Sequence[int] = ()
    gradients: Sequence[str] = ()
    pictures: bool = False

    def __post_init__(self) -> None:
        if self.features is not None and self.first_stage is None:
            raise ValueError("features are those of a first_stage, which is missing")
        if sorted({0, *self.image_bins}) != [0, *self.image_bins]:
            raise ValueError("image_bins are no ascending numbers of training images")

    def check_labels(self, known: Collection[str], path: str | os.PathLike) -> None:
        """Raise a UserError if a table or ``gradients`` has a run that is none of ``known``."""
        for name, labels in {**self.tables, "gradients": self.gradients}.items():
            if unknown := [label for label in labels if label not in known]:
                names = ", ".join(dict.fromkeys(known))
                raise UserError(f"{path}: its {name} have {unknown[0]!r}; give some of {names}.")


def read_study(path: str | os.PathLike) -> Study:
    """Read the section of a sweep file; a UserError if there is none, or one that is invalid."""
    section = read_sweep_file(path).get("study")
    if section is None:
        raise UserError(f"{path}: has no section 'study'; train its runs by tools/sweep.py.")
    try:
        return msgspec.convert(section, Study)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Object", "section").replace("`$", "`study")
        raise UserError(f"{path}: study: {reason}; correct it (see docs/sweeps.md).") from None
