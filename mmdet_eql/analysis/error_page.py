"""The errors of a category as one HTML page that needs neither other files nor the network."""

import base64
import html
import os
from collections.abc import Callable, Mapping, Sequence

import cv2
import mmcv
import numpy as np

from mmdet_eql.analysis.category_errors import (
    CategoryErrors,
    FalseAlarm,
    TruthCase,
    count_names,
)
from mmdet_eql.frequency import GROUP_NAMES
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

#: Side of a picture in pixels, and the part of it that the boxes may fill.
_SIDE, _FILL = 224, 0.6
#: BGR, as OpenCV draws: annotations blue, detections of the category vermilion, others yellow.
_TRUTH, _OWN, _OTHER = (178, 114, 0), (0, 94, 213), (66, 228, 240)

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
       max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd; }
p, ul { max-width: 46rem; }
nav a { margin-right: 1rem; }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 3rem; }
table { border-collapse: collapse; font-size: .875rem; margin: .5rem 0 1rem; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #e5e5e5;
         overflow-wrap: anywhere; }
td:last-child, th:last-child { text-align: right; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border: 1px solid #ddd; }
figcaption { font-size: .8rem; line-height: 1.35; color: #444; overflow-wrap: anywhere; }
.truth, .own, .other { display: inline-block; width: .8em; height: .8em; border: 3px solid; }
.truth { border-color: #0072b2; } .own { border-color: #d55e00; } .other { border-color: #f0e442; }
"""


def write_error_page(
    errors: CategoryErrors,
    image_ids: Sequence[int],
    image_paths: Sequence[str],
    path: str | os.PathLike,
    max_cases: int = 60,
) -> None:
    """Write a page with a picture of each case, which opens from disk.

    Args:
        errors (CategoryErrors): What is shown.
        image_ids (Sequence[int]): Id of each image of the annotation file, sorted.
        image_paths (Sequence[str]): File of each of them.
        path (str | os.PathLike): HTML file to write; it appears whole or not at all.
        max_cases (int): Greatest number of pictures of a kind.

    Raises:
        UserError: If an image cannot be read, or the page not be written.
    """
    pictures = _Pictures(image_ids, image_paths)
    sections = {
        "misses": ("Misses", errors.misses, pictures.of_truth),
        "alarms": ("False alarms", errors.false_alarms, pictures.of_alarm),
        "hits": ("Hits", errors.hits, pictures.of_truth),
    }
    title = f"{errors.category}: hits and errors"
    links = "".join(
        f'<a href="#{key}">{name} ({len(cases):,})</a>'
        for key, (name, cases, _) in sections.items()
    )
    parts = [f"<h1>{html.escape(title)}</h1>", _summary(errors), f"<nav>{links}</nav>"]
    parts.append(
        '<div class="tables">'
        + _table("Seen where it was missed", errors.mistaken_for())
        + _table("Annotated where it was seen wrongly", errors.mistaken_from())
        + _table("Kinds of false alarms", count_names(alarm.kind for alarm in errors.false_alarms))
        + "</div>"
    )
    for key, (name, cases, picture) in sections.items():
        parts.append(_section(key, name, cases, picture, max_cases))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def _summary(errors: CategoryErrors) -> str:
    group = GROUP_NAMES.get(errors.frequency)
    lines = [
        f"{'A ' + group + ' category. ' if group else ''}{len(errors.truths):,} annotations: "
        f"{len(errors.hits):,} found, {len(errors.misses):,} missed. {len(errors.false_alarms):,} "
        f"false alarms; {errors.num_absent:,} images are verified not to contain it.",
        f"Detections with a score of at least {errors.score_thr:g} count; boxes match from an IoU "
        f"of {errors.iou_thr:g}.",
        f"Not judged: {errors.num_unjudged:,} detections in images where nobody looked for it, and "
        f"{errors.num_excused:,} where not all of it is annotated.",
    ]
    legend = (
        '<span class="truth"></span> annotated &ensp; <span class="own"></span> detected as '
        f'{html.escape(errors.category)} &ensp; <span class="other"></span> detected as another '
        "category"
    )
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines) + f"<p>{legend}</p>"


def _table(caption: str, counts: Mapping[str, int], longest: int = 10) -> str:
    if not counts:
        return ""
    rows = list(counts.items())
    if len(rows) > longest:
        rest = rows[longest:]
        rows = [
            *rows[:longest],
            (f"{len(rest):,} others", sum(number for _, number in rest)),
        ]
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{number:,}</td></tr>" for name, number in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption>{cells}</table>"


def _section(key: str, name: str, cases: Sequence, picture: Callable, max_cases: int) -> str:
    shown = "".join(map(picture, cases[:max_cases])) or "<p>None.</p>"
    more = (
        f"<p>The first {max_cases:,} of {len(cases):,} are shown.</p>"
        if len(cases) > max_cases
        else ""
    )
    return f'<h2 id="{key}">{name}</h2>{more}<div class="cases">{shown}</div>'


class _Pictures:
    """Cut-outs of images with boxes, as HTML."""

    def __init__(self, image_ids: Sequence[int], image_paths: Sequence[str]) -> None:
        self.ids = image_ids
        self.paths = image_paths

    def of_truth(self, case: TruthCase) -> str:
        boxes, lines = [(case.box, _TRUTH)], []
        for detection, colour, text in (
            (case.found, _OWN, "found"),
            (case.confused, _OTHER, "seen as {name}"),
            (case.below, _OWN, "too low a score"),
        ):
            if detection is not None:
                boxes.append((detection.box, colour))
                name = html.escape(detection.category)
                lines.append(f"{text.format(name=name)}: {detection.score:.2f}")
        return self._figure(case.image, boxes, lines or ["nothing was found"])

    def of_alarm(self, alarm: FalseAlarm) -> str:
        boxes = [(alarm.detection.box, _OWN)]
        text = alarm.kind
        if alarm.truth_box is not None:
            boxes.append((alarm.truth_box, _TRUTH))
        if alarm.truth_category is not None:
            text = f"on {html.escape(alarm.truth_category)}"
        return self._figure(alarm.image, boxes, [f"{text}: {alarm.detection.score:.2f}"])

    def _figure(self, image: int, boxes: Sequence[tuple], lines: Sequence[str]) -> str:
        caption = "<br>".join([*lines, f"image {self.ids[image]}"])
        content = base64.b64encode(self._cut_out(image, boxes)).decode("ascii")
        return (
            f'<figure><img alt="" loading="lazy" src="data:image/jpeg;base64,{content}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def _cut_out(self, image: int, boxes: Sequence[tuple]) -> bytes:
        pixels = _read_image(self.paths[image])
        corners = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in boxes])
        low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        side = max(float((high - low).max()) / _FILL, 32.0)
        # From the image to the picture; what lies beyond the image is grey.
        scale = _SIDE / side
        origin = (low + high) / 2 - side / 2
        matrix = np.array([[scale, 0, -scale * origin[0]], [0, scale, -scale * origin[1]]])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture = cv2.warpAffine(
            pixels, matrix, (_SIDE, _SIDE), flags=interpolation, borderValue=(224, 224, 224)
        )
        for (x1, y1, x2, y2), (_, colour) in zip(corners, boxes, strict=True):
            start, end = ((np.array(point) - origin) * scale for point in ((x1, y1), (x2, y2)))
            start, end = (tuple(np.rint(point).astype(int).tolist()) for point in (start, end))
            cv2.rectangle(picture, start, end, colour, 2, cv2.LINE_AA)
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _read_image(path: str) -> np.ndarray:
    try:
        pixels = mmcv.imread(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such image; give the folder that the names in the annotation file are "
            "relative to by --images."
        ) from None
    if pixels is None:
        raise UserError(f"{path}: the image cannot be decoded; download or copy it again.")
    return pixels
