"""Writing a file whole or not at all, and reading one that may not be local."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmdet_eql.utils.errors import UserError


@contextlib.contextmanager
def local_copy(path: str, backend_args: dict | None = None) -> Iterator[str]:
    """Give the path of a local copy of a file: of a local file, its own.

    Args:
        path (str): Path, or URI such as ``s3://...``.
        backend_args (dict, optional): mmengine's file backend. mmengine is needed for files that
            are not local alone.

    Raises:
        UserError: If mmengine is needed and not installed.
    """
    if backend_args is None and "://" not in path:
        yield path
        return
    try:
        from mmengine.fileio import get_local_path
    except ImportError:
        raise UserError(
            f"{path}: is not local, and mmengine, which fetches files, is not installed; install "
            "it, or give a local file."
        ) from None
    with get_local_path(path, backend_args=backend_args) as copy:
        yield copy


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, hint: str = "choose another place") -> Iterator[Path]:
    """Write to another path in the same folder, which replaces ``path`` when the block ends.

    If the block is interrupted, ``path`` holds what it held before. The folder is made.

    Args:
        path (str | os.PathLike): File to write.
        hint (str): What to do if it cannot be written, for the message.

    Raises:
        UserError: If the system refuses (no permission, a full disk, a folder of that name).

    Example:
        >>> with atomic_write("work_dirs/table.md") as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text(table)
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); {hint} or free some space."
        ) from None


def write_text(path: str | os.PathLike, text: str, hint: str = "choose another place") -> None:
    """Write a text file whole or not at all, unless it holds this text already.

    Folder, ``hint`` and errors are as in :func:`atomic_write`.
    """
    path = Path(path)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    with atomic_write(path, hint) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_writable(path: str | os.PathLike, hint: str = "choose another place") -> None:
    """Make the folder of a file that will be written; a UserError if the system refuses."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {hint}.") from None


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike, hint: str = "choose another folder") -> Iterator[None]:
    """Make and lock a folder for one process; the system releases it if the process dies.

    Raises:
        UserError: If another process holds it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another process is at work in this folder; wait for it, or {hint}."
        ) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); {hint}.") from None
    with lock:
        yield
