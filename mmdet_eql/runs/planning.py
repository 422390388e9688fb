"""From what is asked for to runs: merged configs, identities, folders; and what is broken.

A run is known by its identity, a digest of its merged config (without ``work_dir``), of the options
of ``train.py``, and of the run that it starts from. Its folder is named when it is first planned::

    WORK_DIR/configs/NAME.py        its config, complete
    WORK_DIR/NAME/sweep_run.json    its identity and what it was asked for by

and found again by its identity, however the sweep file has changed meanwhile.
"""

import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_eql.engine.launch import merge_options, read_config
from mmdet_eql.runs.config_check import check_config
from mmdet_eql.runs.sweep_file import SEED_KEY, Entry
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

MARKER = "sweep_run.json"
#: Characters of a name, before what makes it unique.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class TrainingOptions:
    """Options of ``train.py`` that all runs of a sweep share.

    Args:
        gpus (int): Processes of each training, by ``dist_train.sh`` if there are several.
        flags (tuple[str, ...]): Of ``--amp``, ``--auto-scale-lr`` and ``--deterministic``.
    """

    gpus: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SweepRun:
    """A training to be done once.

    Args:
        name (str): Name of its folder, unique in the sweep.
        label (str): The same without the seed.
        entry (Entry): What it was asked for by.
        cfg (Config): Its merged config.
        identity (str): Digest of all that decides what comes out.
        experiment (str): The same without the seed: runs that differ in it alone share it.
        work_dir (Path): Folder for its logs, checkpoints and result.
        config (Path): File for its config.
        training (TrainingOptions): How it is trained.
        first_stage (SweepRun, optional): The run whose last checkpoint it starts from.
    """

    name: str
    label: str
    entry: Entry
    cfg: Config = field(repr=False)
    identity: str
    experiment: str
    work_dir: Path
    config: Path
    training: TrainingOptions
    first_stage: "SweepRun | None" = None


@dataclass(frozen=True)
class Broken:
    """An entry that cannot be trained.

    Args:
        name (str): Name that its run would have had.
        reason (str): Why.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a sweep consists of.

    Args:
        runs (list[SweepRun]): Each run once, first stages before what starts from them.
        broken (list[Broken]): What is left out.
        repeated (int): Number of entries that ask for a run of another entry once more.
    """

    runs: list[SweepRun]
    broken: list[Broken]
    repeated: int


def plan_runs(
    entries: Sequence[Entry], work_dir: Path, training: TrainingOptions = TrainingOptions()
) -> Plan:
    """Merge, check, identify and name the runs of a sweep.

    Nothing is written.

    Args:
        entries (Sequence[Entry]): What is asked for.
        work_dir (Path): Folder of the sweep; what it holds is recognised.
        training (TrainingOptions): How to train.

    Returns:
        Plan: The runs, and what is broken.
    """
    planner = _Planner(work_dir, training, short_keys(e.differing for e in entries))
    # A first stage may be listed after what starts from it.
    waiting, ready = list(entries), []
    while waiting:
        labels = {entry.label for entry in waiting}
        free = [entry for entry in waiting if entry.load_from not in labels]
        if not free:
            planner.refuse(waiting, "load_from goes round in a circle")
            break
        ready += free
        waiting = [entry for entry in waiting if entry.load_from in labels]
    for entry in ready:
        planner.add(entry)
    return Plan(list(planner.runs.values()), planner.broken, planner.repeated)


class _Planner:
    def __init__(self, work_dir: Path, training: TrainingOptions, shorts: Mapping[str, str]):
        self.work_dir = work_dir
        self.training = training
        self.shorts = shorts
        self.runs: dict[str, SweepRun] = {}
        self.broken: list[Broken] = []
        self.repeated = 0
        self._known = _folders_by_identity(work_dir)
        self._taken = set(self._known.values())
        self._bases: dict[str, Config | UserError] = {}
        self._checked: dict[str, UserError | None] = {}
        self._of_label: dict[str, list[SweepRun]] = {}

    def refuse(self, entries: Iterable[Entry], reason: str) -> None:
        self.broken += [Broken(self._label(entry)[1], reason) for entry in entries]

    def add(self, entry: Entry) -> None:
        try:
            first_stage = self._first_stage(entry)
            cfg = self._merged(entry)
            experiment = self._digest(without_seed(cfg), first_stage and first_stage.experiment)
            self._check(cfg, experiment)
        except UserError as error:
            self.refuse([entry], str(error))
            return
        identity = self._digest(cfg, first_stage and first_stage.identity)
        if identity in self.runs:
            self.repeated += 1
            self._of_label.setdefault(entry.label, []).append(self.runs[identity])
            return
        label, name = self._label(entry)
        if identity in self._known:
            name = self._known[identity]
        elif name in self._taken or (self.work_dir / name).exists():
            name = f"{name}_{identity[:8]}"
        self._taken.add(name)
        run = SweepRun(
            name=name,
            label=label,
            entry=entry,
            cfg=cfg,
            identity=identity,
            experiment=experiment,
            work_dir=self.work_dir / name,
            config=self.work_dir / "configs" / f"{name}.py",
            training=self.training,
            first_stage=first_stage,
        )
        self.runs[identity] = run
        self._of_label.setdefault(entry.label, []).append(run)

    def _label(self, entry: Entry) -> tuple[str, str]:
        """Name without and with the seed."""
        # No hidden folder, and nothing that looks like an option.
        parts = [_safe(entry.label).lstrip(".-") or "run"]
        parts += [f"{self.shorts[key]}={_shown(entry.options[key])}" for key in entry.differing]
        label = "_".join(parts)
        if len(label) > _LONGEST_NAME:
            digest = hashlib.sha256(label.encode()).hexdigest()[:8]
            label = f"{label[:_LONGEST_NAME]}_{digest}"
        return label, label if entry.seed is None else f"{label}_seed={entry.seed}"

    def _first_stage(self, entry: Entry) -> SweepRun | None:
        if entry.load_from is None:
            return None
        # One that is listed twice is one run.
        candidates = list(dict.fromkeys(self._of_label.get(entry.load_from, [])))
        same_seed = [run for run in candidates if run.entry.seed == entry.seed]
        found = same_seed or candidates
        if len(found) != 1:
            known = "is broken" if not candidates else f"names {len(found)} runs"
            raise UserError(f"load_from: {entry.load_from!r} {known}; it must be one")
        return found[0]

    def _merged(self, entry: Entry) -> Config:
        if entry.config not in self._bases:
            try:
                self._bases[entry.config] = read_config(entry.config)
            except UserError as error:
                self._bases[entry.config] = error
        base = self._bases[entry.config]
        if isinstance(base, UserError):
            raise base
        cfg = copy.deepcopy(base)
        options = copy.deepcopy(dict(entry.options))
        merge_options(cfg, {key: _as_in(base, key, value) for key, value in options.items()})
        if entry.seed is not None:
            merge_options(cfg, {SEED_KEY: entry.seed})
        cfg.pop("work_dir", None)
        return cfg

    def _check(self, cfg: Config, experiment: str) -> None:
        """Once for all seeds."""
        if experiment not in self._checked:
            try:
                check_config(cfg)
                self._checked[experiment] = None
            except UserError as error:
                self._checked[experiment] = error
        if self._checked[experiment] is not None:
            raise self._checked[experiment]

    def _digest(self, cfg: Config, first_stage: str | None) -> str:
        training = [self.training.gpus, *sorted(self.training.flags)]
        return digest_of([cfg.to_dict(), training, first_stage])


def _as_in(cfg: Config, key: str, value: Any) -> Any:
    """A list as a tuple where the config has one: YAML and JSON know no tuples."""
    known: Any = cfg
    for part in key.split("."):
        try:
            known = known[int(part)] if isinstance(known, (list, tuple)) else known[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return value
    return tuple(value) if isinstance(known, tuple) and isinstance(value, list) else value


def digest_of(content: Any) -> str:
    """A digest of nested dicts, lists and plain values, whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def without_seed(cfg: Config) -> Config:
    """A copy of a config that names no seed."""
    cfg = copy.deepcopy(cfg)
    randomness = cfg.get("randomness")
    if randomness is not None:
        randomness.pop("seed", None)
        if not randomness:
            cfg.pop("randomness")
    return cfg


def write_run_files(run: SweepRun) -> None:
    """Write the config of a run, and what it is known by.

    Raises:
        UserError: If they cannot be written.
    """
    write_text(run.config, run.cfg.pretty_text)
    marker = {
        "identity": run.identity,
        "experiment": run.experiment,
        "label": run.label,
        "config": Path(run.entry.config).stem,
        "options": dict(run.entry.options),
        "seed": run.entry.seed,
        "gpus": run.training.gpus,
        "flags": list(run.training.flags),
        "load_from": run.first_stage.name if run.first_stage else None,
    }
    write_text(run.work_dir / MARKER, json.dumps(marker, indent=1, default=str) + "\n")


def read_marker(work_dir: Path) -> dict:
    """What :func:`write_run_files` wrote; empty for a folder of another kind."""
    try:
        marker = json.loads((work_dir / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def short_keys(differing: Iterable[Sequence[str]]) -> dict[str, str]:
    """Names of dotted keys: as few of their last parts as tell them apart.

    Example:
        >>> short_keys([["model.loss.lambda_", "train.loss.weight", "val.loss.weight"]])
        {'model.loss.lambda_': 'lambda', 'train.loss.weight': 'train.loss.weight', \
'val.loss.weight': 'val.loss.weight'}
    """
    keys = list(dict.fromkeys(key for keys in differing for key in keys))
    shorts = {}
    for key in keys:
        parts = key.split(".")
        for number in range(1, len(parts) + 1):
            short = ".".join(parts[-number:])
            ends = Counter(".".join(other.split(".")[-number:]) for other in keys)
            if ends[short] == 1:
                break
        shorts[key] = _safe(short.rstrip("_"))
    return shorts


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("type", "-".join(map(str, value)))
    if isinstance(value, (list, tuple)):
        return "-".join(_shown(item) for item in value) or "none"
    return _safe(f"{value:g}" if isinstance(value, float) else str(value))


def _safe(text: str) -> str:
    """The text with what no shell, file system or config option minds."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


def _folders_by_identity(work_dir: Path) -> dict[str, str]:
    found = {}
    for path in sorted(work_dir.glob(f"*/{MARKER}")):
        identity = read_marker(path.parent).get("identity")
        if isinstance(identity, str):
            found.setdefault(identity, path.parent.name)
    return found
