"""Writing a file whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmdet_eql.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mend: str = "choose another place") -> Iterator[Path]:
    """A path to write to, whose file takes its place when the block ends well.

    Whatever interrupts the block, ``path`` holds what it held before, and nothing is left beside
    it. Its folder is made.

    Args:
        path (str | os.PathLike): File to write.
        mend (str): What the user can do if it cannot be written, for the sentence that says so.

    Yields:
        Path: File to write in the block, in the same folder.

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
            f"{path}: cannot be written ({error.strerror or error}); {mend} or free some space."
        ) from None
