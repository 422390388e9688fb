"""Finding the last checkpoint that a run can go on from."""

import os
import os.path as osp
import re
import sys

from mmengine.config import Config

from mmdet_eql.engine.checkpoint import load_checkpoint_file
from mmdet_eql.utils.errors import UserError


def find_last_checkpoint(cfg: Config) -> str | None:
    """The newest checkpoint of a run that is whole.

    The one that the file ``last_checkpoint`` names comes first, then all others by their
    iterations. Each is read in full, since a file that was cut off or never reached the disk can
    look like a checkpoint from outside. What is passed over is told on stderr.

    Args:
        cfg (Config): With ``work_dir`` and, if checkpoints are kept elsewhere, ``out_dir`` of
            ``default_hooks.checkpoint``.

    Returns:
        str | None: Its path, or a URI that ``last_checkpoint`` names; None if there is no
        checkpoint at all.

    Raises:
        UserError: If there are checkpoints, but none that can be resumed from.
    """
    folders = _folders(cfg)
    named = _named_by_run(cfg.work_dir, folders)
    if named is not None and "://" in named:
        return named
    candidates = [named] if named is not None else []
    candidates += [path for path in _by_iteration(folders) if path not in candidates]
    reasons = []
    for path in candidates:
        reason = _reason_against(path)
        if reason is None:
            if reasons and os.environ.get("RANK", "0") == "0":
                print(
                    f"warning: {'; '.join(reasons)}; resuming from {path} instead.",
                    file=sys.stderr,
                    flush=True,
                )
            return path
        reasons.append(reason)
    if reasons:
        raise UserError(
            f"{cfg.work_dir}: none of its checkpoints can be resumed from ({'; '.join(reasons)}); "
            "start anew in another --work-dir, or without --resume."
        )
    return None


def _folders(cfg: Config) -> list[str]:
    out_dir = cfg.get("default_hooks", {}).get("checkpoint", {}).get("out_dir")
    folders = [cfg.work_dir]
    if out_dir is not None and "://" not in str(out_dir):
        # CheckpointHook appends the last part of the work_dir.
        folders.append(osp.join(out_dir, osp.basename(cfg.work_dir.rstrip(os.sep))))
    return folders


def _named_by_run(work_dir: str, folders: list[str]) -> str | None:
    """What ``last_checkpoint`` names, where it is now; None if it names no file."""
    try:
        with open(osp.join(work_dir, "last_checkpoint"), encoding="utf-8") as file:
            named = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not named or "://" in named:
        return named or None
    # Paths are relative to the folder that the run was started in, and folders get moved.
    moved = [osp.join(folder, osp.basename(named)) for folder in folders]
    return next((path for path in [named, *moved] if osp.isfile(path)), None)


def _by_iteration(folders: list[str]) -> list[str]:
    """All checkpoints of a run, the latest first."""
    found = []
    for folder in folders:
        if osp.isdir(folder):
            for name in os.listdir(folder):
                step = re.fullmatch(r"(iter|epoch)_(\d+)\.pth", name)
                if step:
                    path = osp.join(folder, name)
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
