"""All that can be wrong with a data set, images included, found in one pass over its files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
from hotcoco import COCO
from tqdm import tqdm

from mmdet_eql.annotations import AnnotationColumns
from mmdet_eql.annotations.data_report import DataReport, report_data, what_happens
from mmdet_eql.annotations.segmentation import PARTLY, WHOLE, decode_segmentation, usable_part
from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.datasets.image_file import (
    decode_whole,
    exif_orientation,
    is_ended_jpeg,
    size_hint,
)
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.processes import map_forked

#: The label of a semantic map that stands for none, as in MMDetection.
_NO_LABEL = 255
#: IoU of a segmentation's extent and its box from which on they are taken for the same object.
_LEAST_IOU = 0.2
#: What happens to annotations without a loss.
_HARMLESS = ("ignored", "area is", "box leaves", "of a category")


@dataclass
class CheckFinding:
    """What was found at some places.

    Args:
        what (str): What was found.
        stops (bool): Whether training or evaluation would stop at it, or silently lose something.
        places (list[str]): Each with what is wrong there.
    """

    what: str
    stops: bool
    places: list[str] = field(default_factory=list)


class UncheckedDataset(LVISFormatDataset):
    """A dataset that does not look for its images."""

    def _check_image_folder(self) -> None:
        pass


def check_data_set(
    options: dict,
    training: bool,
    seen: dict[bytes, str],
    num_semantic: int | None = None,
    turns: bool = True,
    num_workers: int | None = None,
) -> tuple[DataReport | None, list[CheckFinding]]:
    """Check a data set: its annotation file, and each image and semantic map.

    Args:
        options (dict): Arguments of its :class:`LVISFormatDataset`.
        training (bool): Whether it is trained on; else it is evaluated on.
        seen (dict[bytes, str]): Images of the data sets checked before, by a hash of their files;
            those of this one are added.
        num_semantic (int, optional): Labels of semantic maps.
        turns (bool): Whether the pipeline turns images as their EXIF data say.
        num_workers (int, optional): Processes. Defaults to one for each core.

    Returns:
        tuple: The report of the annotation file, None if that cannot be read, and what was found.
    """
    findings: dict[str, CheckFinding] = {}

    def add(what: str, place: str, stops: bool = True) -> None:
        findings.setdefault(what, CheckFinding(what, stops)).places.append(place)

    try:
        dataset = LVISFormatDataset(**options)
    except UserError as error:
        add("training would stop" if training else "evaluation would stop", str(error))
        try:
            dataset = UncheckedDataset(**{**options, "test_mode": True, "pipeline": []})
        except UserError:
            return None, [*findings.values()]
    annotations = dataset.annotations
    columns = annotations.columns
    images = np.arange(columns.num_images)
    report = report_data(annotations, dataset.ann_file, images, training)
    for what, those in what_happens(annotations, training).items():
        for annotation in np.flatnonzero(those).tolist():
            add(
                what,
                f"annotation {columns.annotation_id[annotation]}",
                not what.startswith(_HARMLESS),
            )
    for warning in report.warnings:
        add("nearly all of a kind is affected", warning)
    for annotation, extent in _extents_elsewhere(columns, annotations.is_instance):
        text = ", ".join(f"{value:g}" for value in extent)
        place = f"annotation {columns.annotation_id[annotation]}: extends over [{text}]"
        add("segmentation elsewhere than its box", place)
    for annotation_id in _near_duplicates(columns):
        add("annotated twice: same class, IoU above 0.95", f"annotation {annotation_id}", False)

    paths, semantic_paths = zip(*map(dataset.files, images.tolist()), strict=True)
    sizes = map(tuple, columns.image_size.tolist())
    files = zip(paths, sizes, semantic_paths, strict=True)
    check = partial(check_image, num_semantic=num_semantic, turns=turns)
    own: dict[bytes, str] = {}
    with map_forked(lambda file: check(*file), files, num_workers) as results:
        # None: a log file gets no bar.
        bar = tqdm(results, dataset.ann_file, len(paths), unit=" images", disable=None)
        for path, (digest, problems) in zip(paths, bar, strict=True):
            for what, detail, stops in problems:
                add(what, f"{path}: {detail}", stops)
            if digest is None:
                continue
            if digest in seen:
                add("in two data sets", f"{path}: is the same file as {seen[digest]}")
            elif own.setdefault(digest, path) != path:
                add("one file under two names", f"{path}: is {own[digest]}", False)
    seen |= own
    return report, [*findings.values()]


def check_image(
    path: str,
    size: tuple[int, int],
    semantic_path: str | None = None,
    num_semantic: int | None = None,
    turns: bool = True,
) -> tuple[bytes | None, list[tuple[str, str, bool]]]:
    """Check an image, whose annotated height and width are ``size``, and its semantic map.

    The other arguments are those of :func:`check_data_set`.

    Returns:
        tuple: A hash of the image file, None if it cannot be read, and what was found: what it is,
        the details, and whether it stops a training or silently loses something.
    """
    problems = []
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return None, [("missing image", f"cannot be read ({reason})", True)]
    # All data of a JPEG are read for its brightness alone, which takes less time.
    image = decode_whole(content, _decode_gray if is_ended_jpeg(content) else _decode)
    if image is None:
        problems.append(("damaged image", f"{len(content):,} bytes cannot be decoded whole", True))
    else:
        orientation = exif_orientation(content)
        own = image.shape[:2]
        if turns and orientation >= 5:
            own = own[::-1]
        if own != size:
            detail = (
                f"has {own[1]}x{own[0]} pixels, but its annotation says {size[1]}x{size[0]}; "
                f"{size_hint(content, own, size)}"
            )
            problems.append(("image of another size than annotated", detail, True))
        elif orientation > 1:
            detail = f"orientation {orientation}; see whether its boxes fit, turned or not"
            problems.append(("image that EXIF data turn or mirror", detail, False))
        if image.dtype != np.uint8:
            detail = f"pixels are {image.dtype}, of which the highest 8 bits are read"
            problems.append(("image of more than 8 bits", detail, True))
        if semantic_path is not None:
            problems += _problems_of_map(semantic_path, own, num_semantic)
    return hashlib.sha256(content).digest(), problems


def _problems_of_map(
    path: str, size: Sequence[int], num_semantic: int | None
) -> list[tuple[str, str, bool]]:
    try:
        labels = _decode(Path(path).read_bytes())
    except (OSError, ValueError, cv2.error):
        labels = None
    if labels is None:
        return [("semantic map missing or damaged", f"{path} cannot be read", True)]
    if labels.ndim > 2:
        return [("semantic map in colors", f"{path} has {labels.shape[2]} channels, not 1", True)]
    if labels.shape != tuple(size):
        detail = f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels"
        return [("semantic map of another size than its image", detail, True)]
    largest = labels[labels != _NO_LABEL].max(initial=0)
    if num_semantic is not None and largest >= num_semantic:
        detail = f"{path} has the label {largest}, but the model {num_semantic} classes"
        return [("semantic map with labels out of range", detail, True)]
    return []


def _decode(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def _decode_gray(content: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def _extents_elsewhere(
    columns: AnnotationColumns, chosen: np.ndarray
) -> Iterator[tuple[int, list[float]]]:
    """Yield annotations whose segmentation is elsewhere than its box, with x, y, width, height."""
    chosen = np.flatnonzero(chosen & np.isin(columns.segmentation_state, (WHOLE, PARTLY)))
    text, ranges = memoryview(columns.segmentation_text), columns.segmentation_range[chosen]
    extents = [_extent(decode_segmentation(text[start:end])) for start, end in ranges.tolist()]
    one, other = np.reshape(extents, (-1, 4)), columns.box[chosen]
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    common = (high - low).clip(min=0).prod(axis=1)
    union = one[:, 2:].prod(axis=1) + other[:, 2:].prod(axis=1) - common
    for index in np.flatnonzero(common < _LEAST_IOU * union).tolist():
        yield chosen[index].item(), extents[index]


def _extent(segmentation: list | dict) -> list[float]:
    """Return x, y, width and height of a segmentation that can be used."""
    if isinstance(segmentation, list):
        polygons = usable_part(segmentation)
        # Each has an even number of coordinates.
        points = polygons[0] if len(polygons) == 1 else list(chain.from_iterable(polygons))
        x, y = points[::2], points[1::2]
        left, top = min(x), min(y)
        return [left, top, max(x) - left, max(y) - top]
    if isinstance(segmentation["counts"], list):
        segmentation = mask_utils.frPyObjects(segmentation, *segmentation["size"])
    return mask_utils.toBbox(segmentation).tolist()


def _near_duplicates(columns: AnnotationColumns) -> list[int]:
    """Ids of annotations that hotcoco finds twice."""
    names = zip(columns.category_id.tolist(), columns.category_name, strict=True)
    sizes = zip(columns.image_id.tolist(), columns.image_size.tolist(), strict=True)
    coco = COCO.from_arrays(
        [{"id": image, "height": size[0], "width": size[1]} for image, size in sizes],
        [{"id": category, "name": name} for category, name in names],
        columns.image_id[columns.annotation_image],
        columns.category_id[columns.category],
        columns.box,
        ids=columns.annotation_id,
        area=columns.area,
    )
    warnings = coco.healthcheck()["warnings"]
    return [i for one in warnings if one["code"] == "near_duplicate" for i in one["affected_ids"]]
