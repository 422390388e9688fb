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
    """Return the newest checkpoint of a run that is whole.

    The one that the file ``last_checkpoint`` names comes first, then all others by their time. Each
    is read in full, since a file that was cut off can look like a checkpoint from outside. A
    warning on stderr names what is passed over.

    Args:
        cfg (Config): With ``work_dir`` and, if checkpoints are kept elsewhere, ``out_dir`` of
            ``default_hooks.checkpoint``.

    Returns:
        str | None: A path, or a URI that ``last_checkpoint`` names; None without any checkpoint.

    Raises:
        UserError: If there are checkpoints, but none that can be resumed from.
    """
    out_dir = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("out_dir")
    folders = [cfg.work_dir]
    if out_dir is not None and "://" not in str(out_dir):
        # CheckpointHook appends the last part of the work_dir.
        folders.append(osp.join(out_dir, osp.basename(cfg.work_dir.rstrip(os.sep))))
    named = _named_by_run(cfg.work_dir)
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


def _named_by_run(work_dir: str) -> str:
    """What ``last_checkpoint`` names, or nothing."""
    try:
        with open(osp.join(work_dir, "last_checkpoint"), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


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
    missing = [
        key
        for key in ("meta", "state_dict", "message_hub", "optimizer")
        if not isinstance(checkpoint.get(key), dict)
    ]
    if not missing and not all(
        isinstance(checkpoint["meta"].get(key), int) for key in ("iter", "epoch")
    ):
        missing = ["meta.iter"]
    if missing:
        return f"{path}: holds weights alone (no {', '.join(missing)})"
    return None
