"""What a data set is, and what of it is dropped, ignored or changed: one short table.

Everything is counted in the columns of the annotation file, so it is the same from the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np

from mmdet_eql.annotations.box_format import leaving_boxes
from mmdet_eql.annotations.class_names import list_names
from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.dataset_annotations import DatasetAnnotations
from mmdet_eql.annotations.segmentation import PARTLY, UNUSABLE

#: Share of the annotations from which on what is dropped or ignored is worth a warning.
_MOST = 0.5
CUT_POLYGONS = "some polygons left out, with fewer than three points"
UNUSABLE_MASKS = "segmentation cannot be used"
_CROWD = "ignored: 'iscrowd' is 1"
_HINTS = {
    "dropped: narrower than a pixel": "'bbox' must be [x, y, width, height] in pixels",
    _CROWD: "it marks regions of many objects; some programs write it for every "
    "mask: set it to 0 for single objects",
    "box leaves its image": "'bbox' must be [x, y, width, height], not corners or centers",
}


@dataclass(frozen=True)
class Finding:
    """What happens to some annotations or images of a file.

    Args:
        what (str): What happens, and why.
        count (int): To as many of them.
        of (int): Out of as many.
        example (str): The first of them.
    """

    what: str
    count: int
    of: int
    example: str


@dataclass(frozen=True)
class DataReport:
    """The report of one data set.

    Args:
        ann_file (str): Its annotation file.
        num_images (int): Images that are used.
        num_annotations (int): Annotations of the classes, in all images of the file.
        num_classes (int): Its classes.
        num_left (int): Annotations that count, in images that are used.
        findings (tuple[Finding]): Each with a count above 0.
        warnings (tuple[str]): Sentences.
    """

    ann_file: str
    num_images: int
    num_annotations: int
    num_classes: int
    num_left: int
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """Return the report as a table, and a line for each warning."""
        lines = [
            f"{self.ann_file}: {self.num_images:,} images, {self.num_annotations:,} annotations, "
            f"{self.num_classes:,} categories"
        ]
        width = max((len(finding.what) for finding in self.findings), default=0)
        lines += [
            f"  {finding.what:{width}}  {finding.count:9,}  {finding.example}"
            for finding in self.findings
        ]
        return "\n".join([*lines, *(f"  warning: {sentence}" for sentence in self.warnings)])


def report_data(
    annotations: DatasetAnnotations, ann_file: str, images: np.ndarray, training: bool
) -> DataReport:
    """Report what a data set makes of an annotation file.

    Args:
        annotations (DatasetAnnotations): The file under the labels of the data set.
        ann_file (str): Its name.
        images (np.ndarray): Positions of the images that are used, int64.
        training (bool): Whether it is trained on; else it is evaluated on.
    """
    columns, known = annotations.columns, annotations.known
    is_used = np.zeros(columns.num_images, dtype=bool)
    is_used[images] = True
    lost = _lost(annotations, training)
    num_known = int(np.count_nonzero(known))
    findings = _findings_of_images(annotations, is_used)
    for what, those in what_happens(annotations, training).items():
        if those.any():
            count = int(np.count_nonzero(those))
            findings.append(Finding(what, count, num_known, _example(columns, those)))
    left = known & ~np.logical_or.reduce([*lost.values()])
    findings += _findings_of_categories(annotations, left)
    return DataReport(
        ann_file=ann_file,
        num_images=len(images),
        num_annotations=num_known,
        num_classes=len(annotations.class_frequency),
        num_left=int(np.count_nonzero(left & is_used[columns.annotation_image])),
        findings=tuple(findings),
        warnings=tuple(_warnings(findings)),
    )


def what_happens(annotations: DatasetAnnotations, training: bool) -> dict[str, np.ndarray]:
    """What happens to which annotations of the labels: bool of shape (A,) each."""
    columns, known = annotations.columns, annotations.known
    return {
        **_lost(annotations, training),
        "of a category that is no class": ~known,
        "area is width x height, as the file has none": known & columns.area_filled,
        CUT_POLYGONS: known & (columns.segmentation_state == PARTLY),
        UNUSABLE_MASKS: known & (columns.segmentation_state == UNUSABLE),
        "box leaves its image": known & leaving_boxes(columns),
    }


def _lost(annotations: DatasetAnnotations, training: bool) -> dict[str, np.ndarray]:
    """Which annotations are neither trained on nor evaluated, bool of shape (A,), by reason."""
    columns, known = annotations.columns, annotations.known
    if training:
        dropped = annotations.drop_reasons()
        lost = {f"dropped: {reason}": those for reason, those in dropped.items()}
        return {**lost, _CROWD: columns.crowd & annotations.is_instance}
    counted = columns.is_object() & known
    lost = {
        "left out: box without width or height": known & ~counted,
        "ignored: marked 'ignore'": columns.ignored & counted,
    }
    if not columns.federated:
        lost[_CROWD] = columns.crowd & counted & ~columns.ignored
    return lost


def _findings_of_images(annotations: DatasetAnnotations, is_used: np.ndarray) -> list[Finding]:
    columns = annotations.columns
    total = columns.num_images
    per_image = np.diff(columns.annotation_start)
    most = per_image.argmax()
    findings = [
        Finding("annotations in one image, at most", per_image[most].item(), 0, _of(columns, most))
    ]
    for what, those in (
        ("images without an annotation of the classes", ~annotations.annotated_images()),
        ("images dropped by filter_cfg", ~is_used),
    ):
        if those.any():
            count = int(np.count_nonzero(those))
            findings.append(Finding(what, count, total, _of(columns, those.argmax())))
    text, starts = columns.path_text.tobytes(), columns.path_start.tolist()
    image_of = {text[slice(*ends)]: image for image, ends in enumerate(pairwise(starts))}
    if len(image_of) < total:
        again = np.setdiff1d(np.arange(total), [*image_of.values()])
        what = "images whose file another image has, too"
        findings.append(Finding(what, len(again), total, _of(columns, again[0])))
    return findings


def _findings_of_categories(annotations: DatasetAnnotations, left: np.ndarray) -> list[Finding]:
    frequency, columns = annotations.class_frequency, annotations.columns
    counts = np.bincount(annotations.label[left], minlength=len(frequency))
    absent = frequency.image_count == 0
    findings = [
        Finding(
            what,
            int(np.count_nonzero(those)),
            len(frequency),
            list_names(compress(frequency.class_names, those)),
        )
        for what, those in (
            ("categories without images", absent),
            ("categories of which no annotation is left", (counts == 0) & ~absent),
        )
        if those.any()
    ]
    if columns.left_out_categories:
        names = columns.left_out_categories
        what = "supercategories without annotations, which are no classes"
        findings.append(Finding(what, len(names), len(names), ", ".join(map(repr, names))))
    return findings


def _warnings(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        is_loss = finding.what in _HINTS or finding.what.startswith(("dropped", "left out"))
        if finding.what.startswith("categories of which") or (
            is_loss and finding.count >= _MOST * finding.of
        ):
            hint = f"; {_HINTS[finding.what]}" if finding.what in _HINTS else ""
            yield (
                f"{finding.what}: {finding.count:,} of {finding.of:,}, as {finding.example}{hint}."
            )


def _example(columns: AnnotationColumns, those: np.ndarray) -> str:
    first = those.argmax()
    image = _of(columns, np.searchsorted(columns.annotation_start, first, side="right") - 1)
    box = ", ".join(f"{value:g}" for value in columns.box[first].tolist())
    return f"annotation {columns.annotation_id[first]} of {image}, bbox [{box}]"


def _of(columns: AnnotationColumns, image: int) -> str:
    return f"image {columns.image_id[image]} ({columns.file_name(image)})"
