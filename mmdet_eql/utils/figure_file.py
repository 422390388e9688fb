"""How matplotlib figures look and are written."""

import os

from matplotlib.figure import Figure

from mmdet_eql.utils.files import atomic_write

# Okabe and Ito's colours, which stay apart for colour-blind eyes; markers tell runs apart in grey
# as well.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RUN_MARKERS = ("o", "^", "s", "D", "v", "P")


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 100) -> None:
    """Write a figure whole or not at all; make its folder.

    It is a PNG with ``dpi`` pixels per inch, or PDF or SVG by its ending.

    Raises:
        UserError: If the file cannot be written.
    """
    ending = os.path.splitext(path)[1].lower()
    with atomic_write(path, "choose another folder") as unfinished:
        kind = ending[1:] if ending in (".pdf", ".svg") else "png"
        figure.savefig(unfinished, format=kind, dpi=dpi)
