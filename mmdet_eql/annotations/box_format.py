"""Boxes that are plainly no x, y, width, height in pixels, and polygons that are in no pixels."""

import numpy as np

from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.segmentation import PARTLY, WHOLE
from mmdet_eql.utils.errors import UserError

#: Boxes from which on a suspicion of corners is certain enough to refuse a file.
_ENOUGH = 10


def leaving_boxes(columns: AnnotationColumns) -> np.ndarray:
    """Whether boxes end more than a pixel beyond their image, bool of shape (A,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        end = columns.box[:, :2] + columns.box[:, 2:]
        return (end > columns.image_size[columns.annotation_image, ::-1] + 1).any(axis=1)


def refuse_other_boxes(columns: AnnotationColumns, path: str) -> None:
    """Raise a UserError if all boxes lie in [0, 1], or are corners x1, y1, x2, y2.

    They are corners if each would be so inside its image, and most leave it as x, y, width, height.

    Args:
        columns (AnnotationColumns): Content of the file.
        path (str): Name of the file.
    """
    box = columns.box
    # Most files are told apart by their first boxes.
    if len(box) and box[:_ENOUGH].max() <= 1 and 0 < box.max() <= 1 and box.min() >= 0:
        raise UserError(
            f"{path}: all boxes lie within [0, 1], as annotation {columns.annotation_id[0]} with "
            f"bbox {box[0].tolist()}; multiply them by the width and height of their images, since "
            "'bbox' is [x, y, width, height] in pixels."
        )
    if len(box) < _ENOUGH or not _are_ordered(box[:_ENOUGH]) or not _are_ordered(box):
        return
    inside = box[:, 2:] <= columns.image_size[columns.annotation_image, ::-1] + 1
    leaving = leaving_boxes(columns)
    if inside.all() and leaving.mean() > 0.5:
        first = leaving.argmax()
        raise UserError(
            f"{path}: 'bbox' seems to be [x1, y1, x2, y2], as in annotation "
            f"{columns.annotation_id[first]} with {box[first].tolist()}: as [x, y, width, height], "
            f"{np.count_nonzero(leaving):,} of {len(box):,} boxes leave their image; write x2 - x1 "
            "and y2 - y1 as width and height."
        )


def refuse_fractional_polygons(columns: AnnotationColumns, path: str) -> None:
    """Raise a UserError if the polygons lie in [0, 1] where the boxes are larger.

    The first of them stand for all. Without this, their masks would be empty.
    """
    usable = np.isin(columns.segmentation_state, (WHOLE, PARTLY))
    first = np.flatnonzero(usable & (columns.box[:, 2:] > 2).all(axis=1))[:_ENOUGH].tolist()
    polygons = [one for one in map(columns.segmentation, first) if isinstance(one, list)]
    if polygons and all(0 <= value <= 1 for one in polygons for part in one for value in part):
        raise UserError(
            f"{path}: polygons lie within [0, 1], as that of annotation "
            f"{columns.annotation_id[first[0]]}, where 'bbox' is in pixels; multiply them by the "
            "width and height of their images."
        )


def _are_ordered(corners: np.ndarray) -> bool:
    return bool((corners[:, 2:] > corners[:, :2]).all() and (corners[:, :2] >= -1).all())
