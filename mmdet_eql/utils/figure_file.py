"""How matplotlib figures look and are written."""

import os

from matplotlib.figure import Figure

from mmdet_eql.utils.files import atomic_write

# Okabe and Ito's colours, which stay apart for colour-blind eyes; markers tell runs apart in grey
# as well.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RUN_MARKERS = ("o", "^", "s", "D", "v", "P")


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 100) -> None:
    """Write a figure as PNG with ``dpi`` pixels per inch, whole or not at all; make its folder.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_write(path, "choose another folder") as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
