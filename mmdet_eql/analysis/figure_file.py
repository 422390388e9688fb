"""Writing matplotlib figures."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from mmdet_eql.errors import UserError


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 100) -> None:
    """Write a figure as PNG; its folder is made, and the file appears whole or not at all.

    Args:
        figure (Figure): The figure.
        path (str | os.PathLike): PNG file to write.
        dpi (int): Pixels per inch of the figure.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(unfinished, format="png", dpi=dpi)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another folder or free some "
            "space."
        ) from None
