"""Writing matplotlib figures."""

import os

from matplotlib.figure import Figure

from mmdet_eql.files import atomic_write


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 100) -> None:
    """Write a figure as PNG; its folder is made, and the file appears whole or not at all.

    Args:
        figure (Figure): The figure.
        path (str | os.PathLike): PNG file to write.
        dpi (int): Pixels per inch of the figure.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_write(path, "choose another folder") as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
