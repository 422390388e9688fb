"""The errors of a category as one HTML page that needs neither other files nor the network."""

import base64
import os
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jinja2 import Environment

from mmdet_eql.analysis.category_errors import CategoryErrors, FalseAlarm, TruthCase, count_names
from mmdet_eql.datasets import LoadVerifiedImage
from mmdet_eql.frequency import GROUP_NAMES
from mmdet_eql.utils.files import write_text

#: Side of a picture in pixels, and the part of it that the boxes may fill.
_SIDE, _FILL = 224, 0.6
#: BGR, as OpenCV draws: annotations blue, detections of the category vermilion, others yellow.
_TRUTH, _OWN, _OTHER = (178, 114, 0), (0, 94, 213), (66, 228, 240)

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ errors.category }}: hits and errors</title>
<style>
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
td { padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; overflow-wrap: anywhere; }
td:last-child { text-align: right; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border: 1px solid #ddd; }
figcaption { font-size: .8rem; line-height: 1.35; color: #444; overflow-wrap: anywhere; }
.truth, .own, .other { display: inline-block; width: .8em; height: .8em; border: 3px solid; }
.truth { border-color: #0072b2; } .own { border-color: #d55e00; } .other { border-color: #f0e442; }
</style></head>
<body>
<h1>{{ errors.category }}: hits and errors</h1>
<p>{% if group %}A {{ group }} category. {% endif %}{{ errors.truths | count_of }} annotations:
{{ errors.hits | count_of }} found, {{ errors.misses | count_of }} missed.
{{ errors.false_alarms | count_of }} false alarms; {{ "{:,}".format(errors.num_absent) }} images are
verified not to contain it.</p>
<p>Detections with a score of at least {{ "{:g}".format(errors.score_thr) }} count; boxes match from
an IoU of {{ "{:g}".format(errors.iou_thr) }}.</p>
<p>Not judged: {{ "{:,}".format(errors.num_unjudged) }} detections in images where nobody looked for
it, and {{ "{:,}".format(errors.num_excused) }} where not all of it is annotated.</p>
<p><span class="truth"></span> annotated &ensp; <span class="own"></span> detected as
{{ errors.category }} &ensp; <span class="other"></span> detected as another category</p>
<nav>{% for title, cases in sections.items() %}
<a href="#{{ title | replace(" ", "-") }}">{{ title }} ({{ cases | count_of }})</a>
{% endfor %}</nav>
<div class="tables">
{% for caption, rows in tables.items() if rows %}
<table><caption>{{ caption }}</caption>
{% for name, number in rows %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(number) }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</div>
{% for title, cases in sections.items() %}
<h2 id="{{ title | replace(" ", "-") }}">{{ title }}</h2>
{% if cases | length > max_cases %}
<p>The first {{ "{:,}".format(max_cases) }} of {{ cases | count_of }} are shown.</p>
{% endif %}
<div class="cases">
{% for case in cases[:max_cases] %}
{% set picture = case | draw %}
<figure><img alt="" loading="lazy" src="data:image/jpeg;base64,{{ picture.jpeg }}">
<figcaption>{% for line in picture.lines %}{{ line }}<br>{% endfor %}
image {{ image_ids[case.image] }}</figcaption></figure>
{% else %}
<p>None.</p>
{% endfor %}
</div>
{% endfor %}
</body></html>
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
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count_of"] = lambda cases: f"{len(cases):,}"
    environment.filters["draw"] = lambda case: _draw(case, image_paths[case.image])
    kinds = count_names(alarm.kind for alarm in errors.false_alarms)
    page = environment.from_string(_TEMPLATE).render(
        errors=errors,
        group=GROUP_NAMES.get(errors.frequency),
        tables={
            "Seen where it was missed": _rows(errors.mistaken_for()),
            "Annotated where it was seen wrongly": _rows(errors.mistaken_from()),
            "Kinds of false alarms": _rows(kinds),
        },
        sections={
            "Misses": errors.misses,
            "False alarms": errors.false_alarms,
            "Hits": errors.hits,
        },
        image_ids=image_ids,
        max_cases=max_cases,
    )
    write_text(path, page)


def _rows(counts: Mapping[str, int], longest: int = 10) -> list[tuple[str, int]]:
    rows = list(counts.items())
    rest = rows[longest:]
    if rest:
        rows[longest:] = [(f"{len(rest):,} others", sum(number for _, number in rest))]
    return rows


def _draw(case: TruthCase | FalseAlarm, path: str) -> dict:
    """The picture of a case as JPEG in base64, and the lines below it."""
    if isinstance(case, FalseAlarm):
        boxes = [(case.detection.box, _OWN)]
        if case.truth_box is not None:
            boxes.append((case.truth_box, _TRUTH))
        text = case.kind if case.truth_category is None else f"on {case.truth_category}"
        lines = [f"{text}: {case.detection.score:.2f}"]
    else:
        boxes, lines = [(case.box, _TRUTH)], []
        for detection, colour, text in (
            (case.found, _OWN, "found"),
            (case.confused, _OTHER, f"seen as {case.confused.category}" if case.confused else ""),
            (case.below, _OWN, "too low a score"),
        ):
            if detection is not None:
                boxes.append((detection.box, colour))
                lines.append(f"{text}: {detection.score:.2f}")
    pixels = LoadVerifiedImage().transform({"img_path": path})["img"]
    jpeg = base64.b64encode(_cut_out(pixels, boxes)).decode("ascii")
    return {"jpeg": jpeg, "lines": lines or ["nothing was found"]}


def _cut_out(pixels: np.ndarray, boxes: Sequence[tuple]) -> bytes:
    """JPEG of the part of an image around boxes, each with its colour, with the boxes drawn."""
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
    corners = np.rint((corners.reshape(-1, 2, 2) - origin) * scale).astype(int).tolist()
    for (start, end), (_, colour) in zip(corners, boxes, strict=True):
        cv2.rectangle(picture, start, end, colour, 2, cv2.LINE_AA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
