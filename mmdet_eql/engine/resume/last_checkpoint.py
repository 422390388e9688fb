"""Finding the last checkpoint that a run can go on from."""

import glob
import os
import os.path as osp
import re
import sys

from mmengine.config import Config

from mmdet_eql.engine.checkpoint import load_checkpoint_file
from mmdet_eql.utils.errors import UserError


def find_last_checkpoint(cfg: Config) -> str | None:
    """Return the newest checkpoint of a run that is whole; None without any checkpoint.

    The one that the file ``last_checkpoint`` names (a path or a URI) comes first, then all others
    in the config's ``work_dir`` and ``default_hooks.checkpoint.out_dir`` by their time. Each is
    read in full. A warning on stderr names what is passed over.

    Raises:
        UserError: If there are checkpoints, but none that can be resumed from.
    """
    out_dir = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("out_dir")
    folders = [cfg.work_dir]
    if out_dir is not None and "://" not in str(out_dir):
        # CheckpointHook appends the last part of the work_dir.
        folders.append(osp.join(out_dir, osp.basename(cfg.work_dir.rstrip(os.sep))))
    try:
        with open(osp.join(cfg.work_dir, "last_checkpoint"), encoding="utf-8") as file:
            named = file.read().strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    if "://" in named:
        return named
    # Paths are relative to the folder that the run was started in, and folders get moved.
    candidates = [named, *(osp.join(folder, osp.basename(named)) for folder in folders)]
    candidates = [path for path in candidates if osp.isfile(path)][:1]
    candidates += [path for path in _by_time(folders) if path not in candidates]
    reasons = []
    for path in candidates:
        reason = _reason_against(path)
        if reason is None:
            if reasons and os.environ.get("RANK", "0") == "0":
                message = f"warning: {'; '.join(reasons)}; resuming from {path} instead."
                print(message, file=sys.stderr, flush=True)
            return path
        reasons.append(reason)
    if reasons:
        raise UserError(
            f"{cfg.work_dir}: none of its checkpoints can be resumed from ({'; '.join(reasons)}); "
            "start anew in another --work-dir, or without --resume."
        )
    return None


def _by_time(folders: list[str]) -> list[str]:
    """All checkpoints of a run, the latest first."""
    found = []
    for path in (path for folder in folders for path in glob.glob(f"{glob.escape(folder)}/*.pth")):
        step = re.fullmatch(r"(iter|epoch)_(\d+)\.pth", osp.basename(path))
        if step:
            found.append((osp.getmtime(path), int(step.group(2)), path))
    return [path for *_, path in sorted(found, reverse=True)]


def _reason_against(path: str) -> str | None:
    try:
        checkpoint = load_checkpoint_file(path, map_location="cpu")
    except UserError as error:
        return str(error).rstrip(".")
    parts = ("meta", "state_dict", "message_hub", "optimizer")
    missing = [key for key in parts if not isinstance(checkpoint.get(key), dict)]
    if "meta" not in missing:
        counters = ("iter", "epoch")
        missing += [f"meta.{k}" for k in counters if not isinstance(checkpoint["meta"].get(k), int)]
    return f"{path}: holds weights alone (no {', '.join(missing)})" if missing else None
