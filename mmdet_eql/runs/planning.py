"""From entries to runs: merged configs, identities, names; and which entries are invalid.

A run is known by its identity, a digest of its merged config (without ``work_dir``), of the options
of ``train.py``, and of the run that it starts from. Its folder is found again by its identity::

    WORK_DIR/configs/NAME.py        its config, complete
    WORK_DIR/NAME/sweep_run.json    its identity and its entry
    WORK_DIR/NAME/result.json       its metrics, once it is done
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet_eql.decoupled.feature_cache import read_description
from mmdet_eql.decoupled.training_config import effective_part, train_on_features
from mmdet_eql.engine.config_check import check_config
from mmdet_eql.engine.launch import merge_options, read_config
from mmdet_eql.runs.sweep_file import SEED_KEY, Entry
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

MARKER_NAME = "sweep_run.json"
RESULT_NAME = "result.json"
#: Characters of a name, before what makes it unique.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class TrainingOptions:
    """Options that all runs share.

    Args:
        gpus (int): Number of processes of each training.
        flags (tuple[str, ...]): Of ``--amp``, ``--auto-scale-lr`` and ``--deterministic``.
        delete_checkpoints (bool): Delete those of runs that are done and that no run to be trained
            starts from.
        keep_detections (bool): Have the evaluation write result files to the work_dir of the run,
            boxes as :data:`~mmdet_eql.runs.execution.DETECTIONS_NAME`.
    """

    gpus: int = 1
    flags: tuple[str, ...] = ()
    delete_checkpoints: bool = False
    keep_detections: bool = False


@dataclass(frozen=True, eq=False)
class SweepRun:
    """A training of a sweep, which is done once.

    Args:
        name (str): Name of its folder, unique in the sweep; ``label`` is the same without the seed.
        cfg (Config): Its merged config, to be written to ``config``.
        identity (str): Digest of everything that determines its result; ``experiment`` is the same
            without the seed.
        work_dir (Path): Folder for its logs, checkpoints and result.
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

    @property
    def is_done(self) -> bool:
        """Whether its result is written."""
        return (self.work_dir / RESULT_NAME).is_file()


@dataclass(frozen=True)
class InvalidEntry:
    """An entry that cannot be trained: the name that its run would have had, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once, first stages before the runs that start from them; invalid
    entries, which are left out; and the number of entries that are the same run as another."""

    work_dir: Path
    runs: list[SweepRun]
    invalid: list[InvalidEntry]
    repeated: int

    def describe(self) -> str:
        """How many runs there are, and which entries are left out, in a few lines."""
        parts = [f"{len(self.runs)} runs in {self.work_dir}"]
        if done := sum(run.is_done for run in self.runs):
            parts.append(f"{done} are done already")
        if self.repeated:
            parts.append(f"{self.repeated} entries repeat one of them")
        left_out = [f"  invalid, left out: {each.name}: {each.reason}" for each in self.invalid]
        return "\n".join([", ".join(parts), *left_out])


def plan_runs(
    entries: Sequence[Entry], work_dir: Path, training: TrainingOptions = TrainingOptions()
) -> Plan:
    """Merge, check, identify and name the runs of a sweep. Nothing is written.

    Runs that the ``work_dir`` of the sweep holds already keep their names.
    """
    planner = _Planner(work_dir, training, short_keys(e.differing for e in entries))
    # A first stage may be listed after the runs that start from it.
    waiting = list(entries)
    while waiting:
        labels = {entry.label for entry in waiting}
        ready = [entry for entry in waiting if entry.load_from not in labels]
        for entry in ready or waiting:
            try:
                if not ready:
                    raise UserError("load_from goes round in a circle")
                planner.add(entry)
            except UserError as error:
                planner.invalid.append(InvalidEntry(names_of(entry, planner.shorts)[1], str(error)))
        waiting = [entry for entry in waiting if ready and entry.load_from in labels]
    return Plan(work_dir, list(planner.runs.values()), planner.invalid, planner.repeated)


class _Planner:
    def __init__(self, work_dir: Path, training: TrainingOptions, shorts: Mapping[str, str]):
        self.work_dir = work_dir
        self.training = training
        self.shorts = shorts
        self.runs: dict[str, SweepRun] = {}
        self.invalid: list[InvalidEntry] = []
        self.repeated = 0
        self._known: dict[str, str] = {}
        for path in sorted(work_dir.glob(f"*/{MARKER_NAME}")):
            if identity := read_marker(path.parent).get("identity"):
                self._known.setdefault(identity, path.parent.name)
        self._taken = set(self._known.values())
        self._configs: dict[str, Config] = {}
        self._checked: dict[str, UserError | None] = {}
        self._on_features: dict[str, str] = {}
        self._of_label: dict[str, list[SweepRun]] = {}

    def add(self, entry: Entry) -> None:
        first = self._first_stage(entry)
        cfg = self.merged_config(entry)
        if first is not None and cfg.get("features"):
            raise UserError(
                "load_from has no effect on features, whose detector is what a training begins "
                "from; leave it out"
            )
        experiment = self._digest(without_seed(cfg), first and first.experiment)
        self._check(cfg, experiment, names_of(entry, self.shorts)[0])
        identity = self._digest(cfg, first and first.identity)
        if identity in self.runs:
            self.repeated += 1
        else:
            label, name = names_of(entry, self.shorts)
            if identity in self._known:
                name = self._known[identity]
                marked = read_marker(self.work_dir / name).get("features")
                if marked not in (None, features_digest(cfg)):
                    raise UserError(
                        f"{cfg.features}: holds other features than those that "
                        f"{self.work_dir / name} was trained on; remove that folder to train it "
                        "again, or give another --work-dir."
                    )
            elif name in self._taken or (self.work_dir / name).exists():
                name = f"{name}_{identity[:8]}"
            self._taken.add(name)
            folder, file = self.work_dir / name, self.work_dir / "configs" / f"{name}.py"
            self.runs[identity] = SweepRun(
                name, label, entry, cfg, identity, experiment, folder, file, self.training, first
            )
        self._of_label.setdefault(entry.label, []).append(self.runs[identity])

    def merged_config(self, entry: Entry) -> Config:
        if entry.config not in self._configs:
            self._configs[entry.config] = read_config(entry.config)
        base = self._configs[entry.config]
        cfg, options = copy.deepcopy(base), copy.deepcopy(dict(entry.options))
        if entry.seed is not None:
            options[SEED_KEY] = entry.seed
        merge_options(cfg, {key: _as_in(base, key, value) for key, value in options.items()})
        cfg.pop("work_dir", None)
        return cfg

    def _first_stage(self, entry: Entry) -> SweepRun | None:
        if entry.load_from is None:
            return None
        # One that is listed twice is one run.
        candidates = list(dict.fromkeys(self._of_label.get(entry.load_from, [])))
        found = [run for run in candidates if run.entry.seed == entry.seed] or candidates
        if len(found) != 1:
            known = "is invalid" if not candidates else f"names {len(found)} runs"
            raise UserError(f"load_from: {entry.load_from!r} {known}; it must be one")
        return found[0]

    def _check(self, cfg: Config, experiment: str, label: str) -> None:
        """Check the config once for all seeds."""
        if experiment not in self._checked:
            self._checked[experiment] = None
            try:
                checked = without_seed(cfg)
                train_on_features(checked)
                if cfg.get("features"):
                    digest = digest_of(effective_part(checked))
                    same = self._on_features.setdefault(digest, label)
                    if same != label:
                        raise UserError(
                            f"trains the same classifier as {same}, since the features take the "
                            "place of what its options set; set decoupled.* instead."
                        )
                # A checkpoint to start from may still have to be made.
                checked.load_from = None
                check_config(checked)
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
    """Return a digest of nested dicts, lists and plain values, whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def features_digest(cfg: Config) -> str | None:
    """Return a digest of what the features that a config names are made of, None without any."""
    if not cfg.get("features"):
        return None
    return digest_of(asdict(replace(read_description(cfg.features), checkpoint="", config="")))


def without_seed(cfg: Config) -> Config:
    """Return a copy of a config without its seed."""
    cfg = copy.deepcopy(cfg)
    (cfg.get("randomness") or {}).pop("seed", None)
    if cfg.get("randomness") == {}:
        cfg.pop("randomness")
    return cfg


def write_run_files(run: SweepRun) -> None:
    """Write the config and the marker of a run; raise a UserError if that fails."""
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
        "features": features_digest(run.cfg),
    }
    write_text(run.work_dir / MARKER_NAME, json.dumps(marker, indent=1, default=str) + "\n")


def read_marker(work_dir: Path) -> dict:
    """Read the marker that :func:`write_run_files` wrote; empty if there is none."""
    try:
        marker = json.loads((work_dir / MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def labels_of(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the runs of entries without their seeds."""
    shorts = short_keys(entry.differing for entry in entries)
    return [names_of(entry, shorts)[0] for entry in entries]


def names_of(entry: Entry, shorts: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of a run without and with its seed; ``shorts`` are those of its keys."""
    # No hidden folder, and nothing that looks like an option.
    parts = [_safe(entry.label).lstrip(".-") or "run"]
    parts += [f"{shorts[key]}={_shown(entry.options[key])}" for key in entry.differing]
    label = "_".join(parts)
    if len(label) > _LONGEST_NAME:
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        label = f"{label[:_LONGEST_NAME]}_{digest}"
    return label, label if entry.seed is None else f"{label}_seed={entry.seed}"


def short_keys(differing: Iterable[Sequence[str]]) -> dict[str, str]:
    """Shorten dotted keys to as few of their last parts as keep them distinct.

    Example:
        >>> short_keys([["model.loss.lambda_", "a.weight", "b.weight"]])
        {'model.loss.lambda_': 'lambda', 'a.weight': 'a.weight', 'b.weight': 'b.weight'}
    """
    keys = list(dict.fromkeys(key for keys in differing for key in keys))
    shorts = {}
    for key in keys:
        for number in range(1, key.count(".") + 2):
            ends = [".".join(other.split(".")[-number:]) for other in keys]
            short = ends[keys.index(key)]
            if ends.count(short) == 1:
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
    """The text without characters that a shell, a file system or a config option minds."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
