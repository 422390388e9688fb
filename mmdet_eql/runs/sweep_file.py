"""What a sweep file asks for.

A sweep file is YAML, JSON or a Python config::

    options: {val_evaluator.classwise: true}    # of every run
    seeds: [0, 1, 2]
    runs:
      - config: configs/minilvis/mask-rcnn_r18_fpn_sigmoid_1xb4_minilvis.py
        name: sigmoid
      - config: configs/minilvis/mask-rcnn_r18_fpn_eql_1xb4_minilvis.py
        grid: {model.roi_head.bbox_head.loss_cls.lambda_: [1e-3, 2e-3]}

``docs/sweeps.md`` explains the keys. A file without ``runs`` is a single entry of that list.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmdet_eql.engine.launch import read_config
from mmdet_eql.utils.errors import UserError

SEED_KEY = "randomness.seed"
_COMMON_KEYS = ("options", "grid", "seeds")
_RUN_KEYS = ("config", "name", *_COMMON_KEYS, "load_from")


@dataclass(frozen=True)
class Entry:
    """One training of a sweep.

    Args:
        label (str): First part of its name.
        options (Mapping[str, Any]): New values by dotted key, without the seed.
        differing (tuple[str, ...]): Keys of ``options`` in its name: not common to all runs, nor
            said by a ``name`` that no other entry has.
        seed (int, optional): None for that of the config.
        load_from (str, optional): Label of the entry whose last checkpoint it starts from.
    """

    config: str
    label: str
    options: Mapping[str, Any]
    differing: tuple[str, ...] = ()
    seed: int | None = None
    load_from: str | None = None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a string."""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parse_values(text: str) -> list:
    """Parse values such as ``1e-3,none,[8,11]``; raise a UserError if they are not YAML."""
    try:
        return yaml.load(f"[{text}]", _Loader)
    except yaml.YAMLError:
        raise UserError(f"{text!r} is no list of values; write them as 0.1,0.2.") from None


def parse_grid(arguments: Sequence[str]) -> dict[str, list]:
    """Parse ``key=value,value`` arguments; raise a UserError without key or value."""
    grid = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not (key and equals and text):
            raise UserError(f"--grid: {argument!r} is not key=value,value; correct it.")
        grid[key] = parse_values(text)
    return grid


def read_entries(
    file: str | os.PathLike | None = None,
    configs: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    grid: Sequence[str] = (),
    seeds: str | None = None,
) -> list[Entry]:
    """List the runs of a sweep file, or of configs, with the options of the command line.

    ``options`` and ``grid`` (each ``"key=value,value"``) come in addition to those that all runs of
    the file share, ``seeds`` (``"0,1,2"``) in place of them.

    Returns and raises as :func:`read_sweep_file` and :func:`entries_of`.
    """
    spec, source = {"config": list(configs)}, "command line"
    if file is not None:
        spec, source = read_sweep_file(file), str(file)
        spec.pop("study", None)  # of tools/run_study.py
    for key, given in (("options", options), ("grid", parse_grid(grid))):
        if given:
            spec[key] = {**_mapping(spec, key, source), **given}
    if seeds is not None:
        spec["seeds"] = parse_values(seeds)
    return entries_of(spec, source)


def read_sweep_file(path: str | os.PathLike, _reached: tuple[Path, ...] = ()) -> dict:
    """Read a YAML, JSON or ``.py`` sweep file and what it inherits from its ``_base_``.

    A ``.py`` file is a config and is run: read only those you trust.

    Raises:
        UserError: If it or a base is missing or no mapping, or if a file is its own base.
    """
    path = Path(path)
    if path.resolve() in _reached:
        raise UserError(f"{path}: is reached again by its own _base_; break the circle.")
    if path.suffix == ".py":
        # A config, which resolves its own bases.
        return read_config(str(path)).to_dict()
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path.") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is neither YAML nor JSON ({reason}); fix it.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no mapping; see docs/sweeps.md for what to write.")
    base = content.pop("_base_", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"{path}: _base_ is {base!r}; give the path of one sweep file.")
    merged = read_sweep_file(path.parent / base, (*_reached, path.resolve()))
    for key, value in content.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def entries_of(spec: Mapping[str, Any], source: str) -> list[Entry]:
    """List the runs by entry, grid point (the last key varies fastest) and seed.

    ``spec`` is the content of a sweep file, ``source`` its name for error messages.

    Raises:
        UserError: If a key is unknown or a value has the wrong type.
    """
    common, runs = {}, [spec]
    if "runs" in spec:
        runs = spec["runs"]
        common = {key: value for key, value in spec.items() if key != "runs"}
        _check_keys(common, _COMMON_KEYS, source)
        if not isinstance(runs, Sequence) or isinstance(runs, str) or not runs:
            raise UserError(f"{source}: runs is no list of runs; see docs/sweeps.md.")
    names = [run.get("name") for run in runs if isinstance(run, Mapping)]
    entries = []
    for number, run in enumerate(runs, start=1):
        where = f"{source}: run {number}" if "runs" in spec else source
        if not isinstance(run, Mapping):
            raise UserError(f"{where} is {run!r}; give a mapping with its config.")
        is_named = run.get("name") is not None and names.count(run["name"]) == 1
        entries += _entries_of_run(run, common, where, is_named)
    labels = {entry.label for entry in entries}
    for entry in entries:
        others = sorted(labels - {entry.label})
        if entry.load_from is not None and entry.load_from not in others:
            raise UserError(
                f"{source}: load_from of {entry.label!r} is {entry.load_from!r}, which is the name "
                f"of no other run; give one of {others}, or set the key in options for a file."
            )
    return entries


def _entries_of_run(
    run: Mapping[str, Any], common: Mapping[str, Any], where: str, is_named: bool
) -> list[Entry]:
    _check_keys(run, _RUN_KEYS, where)
    configs = run.get("config")
    configs = [configs] if isinstance(configs, str) else configs
    if not configs or not all(isinstance(config, str) for config in configs):
        given = run.get("config")
        raise UserError(f"{where}: config is {given!r}; give a path, or a list of them.")
    name = run.get("name")
    if name is not None and (not isinstance(name, str) or len(configs) > 1):
        raise UserError(f"{where}: name is {name!r}; give a word, for a run with one config.")
    load_from = run.get("load_from")
    if load_from is not None and not isinstance(load_from, str):
        raise UserError(f"{where}: load_from is {load_from!r}; give the name of another run.")

    shared = _mapping(common, "options", where)
    own = _mapping(run, "options", where)
    # Its own grid comes in addition to the common one.
    grid = _mapping(common, "grid", where) | _mapping(run, "grid", where)
    for key, values in grid.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise UserError(f"{where}: grid.{key} is {values!r}; give a list of values.")
        if key in own:
            raise UserError(
                f"{where}: its options set {key}, and a grid sets it, too, which would win; leave "
                "one out."
            )
    seeds = run.get("seeds", common.get("seeds"))
    if seeds is not None:
        whole = isinstance(seeds, Sequence) and all(type(seed) is int for seed in seeds)
        if not whole or not seeds or not all(0 <= seed < 2**32 for seed in seeds):
            raise UserError(f"{where}: seeds is {seeds!r}; give a list of whole numbers from 0 on.")
        if SEED_KEY in {*shared, *own, *grid}:
            raise UserError(f"{where}: gives both seeds and {SEED_KEY}; leave one out.")
    return [
        Entry(
            config=config,
            label=name or Path(config).stem,
            options={**shared, **own, **dict(zip(grid, point, strict=True))},
            differing=(*(key for key in own if not is_named), *grid),
            seed=seed,
            load_from=load_from,
        )
        for config in configs
        for point in itertools.product(*grid.values())
        for seed in (seeds if seeds is not None else [None])
    ]


def _check_keys(given: Mapping, known: Sequence[str], where: str) -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise UserError(
            f"{where}: {unknown[0]!r} is no key of a sweep; give {', '.join(known)} (keys of the "
            "config belong into options or grid)."
        )


def _mapping(given: Mapping, key: str, where: str) -> dict:
    value = given.get(key) or {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}: {key} is {value!r}; give a mapping of dotted config keys.")
    return dict(value)
