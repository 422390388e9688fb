"""Visible regions as polygons, and the records of the LVIS format."""

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from mmdet_eql.frequency import frequency_group
from mmdet_eql.minilvis.config import MiniLVISConfig
from mmdet_eql.minilvis.layout import SUPERSAMPLING
from mmdet_eql.minilvis.planning import DatasetPlan, ImagePlan
from mmdet_eql.minilvis.rendering import BACKGROUND_KINDS, Scene

# Slivers that an occluder leaves over, and pinholes: 4 px, in points; an annotator would skip them.
_MIN_PART = 4.0 * SUPERSAMPLING**2
# Greatest distance of a polygon from the region's edge, in px.
_TOLERANCE = 0.3
# A date of its own would make the bytes of each run differ.
_DATE = "2020-01-01"


def annotation_records(plan: ImagePlan, scene: Scene) -> list[dict]:
    """LVIS annotations of an image, from the backmost to the frontmost object, without their ids.

    A segmentation is the visible region: one or several polygons ``[x1, y1, x2, y2, ...]`` in px,
    rounded to 2 decimals. ``area`` is that of their mask, as pycocotools rasterises it.
    """
    records = []
    objects = zip(plan.category_ids, plan.annotated, strict=True)
    for number, (category_id, annotated) in enumerate(objects, start=1):
        if not annotated:
            continue
        polygons = visible_polygons(scene.owner == number)
        mask = mask_utils.merge(mask_utils.frPyObjects(polygons, *scene.semantic.shape))
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        records.append(
            {
                "image_id": plan.image_id,
                "category_id": category_id,
                "segmentation": polygons,
                "area": float(mask_utils.area(mask)),
                "bbox": [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
            }
        )
    return records


def annotation_file(
    dataset: DatasetPlan, split: str, annotations: list[dict], config: MiniLVISConfig
) -> dict:
    """Content of an annotation file of LVIS v1, from the records of all images of the split.

    As in LVIS, both splits give the frequencies of the categories in the training split.
    """
    groups = frequency_group(np.array(dataset.image_count))
    return {
        "info": {
            "description": "MiniLVIS, a rendered long-tailed instance segmentation set",
            "url": "",
            "version": "1.0",
            "year": int(_DATE[:4]),
            "contributor": "",
            "date_created": _DATE,
            "background_kinds": list(BACKGROUND_KINDS),
        },
        "licenses": [{"id": 1, "name": "No known copyright: rendered images", "url": ""}],
        "categories": [
            {
                "id": category.id,
                "name": category.name,
                "synset": f"{category.name.replace(' ', '_')}.n.01",
                "synonyms": [category.name, f"{category.hue} {category.shape}"],
                "def": f"a {category.shape} with {category.hue} colour and {category.texture} "
                "surface",
                "frequency": str(group),
                "image_count": image_count,
                "instance_count": instance_count,
            }
            for category, group, image_count, instance_count in zip(
                dataset.categories, groups, dataset.image_count, dataset.instance_count, strict=True
            )
        ],
        "images": [_image_record(plan, config) for plan in dataset.images[split]],
        "annotations": [
            {"id": identifier, **record} for identifier, record in enumerate(annotations, start=1)
        ],
    }


def image_path(split: str, image_id: int) -> str:
    """Path of an image relative to the dataset's folder."""
    return f"{split}/{image_id:012d}.jpg"


def semantic_path(split: str, image_id: int) -> str:
    """Path of an image's semantic map relative to the dataset's folder."""
    return f"semantic/{split}/{image_id:012d}.png"


def _image_record(plan: ImagePlan, config: MiniLVISConfig) -> dict:
    path = image_path(plan.split, plan.image_id)
    return {
        "id": plan.image_id,
        "width": config.image_size,
        "height": config.image_size,
        "file_name": path,
        # Loaders of LVIS v1 find a file by stripping exactly this host from its URL.
        "coco_url": f"http://images.cocodataset.org/{path}",
        "flickr_url": "",
        "license": 1,
        "date_captured": f"{_DATE} 00:00:00",
        "neg_category_ids": list(plan.neg_category_ids),
        "not_exhaustive_category_ids": list(plan.not_exhaustive_category_ids),
    }


def visible_polygons(region: np.ndarray) -> list[list[float]]:
    """Polygons around a region of the supersampled grid, bool of shape (F * S, F * S)."""
    mask = region.view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    parts = _outlines(np.ascontiguousarray(mask[top : top + height, left : left + width]))
    largest = max(parts, key=cv2.contourArea)
    polygons = []
    for part in parts:
        if part is not largest and cv2.contourArea(part) < _MIN_PART:
            continue
        thinned = cv2.approxPolyDP(part, _TOLERANCE * SUPERSAMPLING, closed=True).reshape(-1, 2)
        if len(thinned) < 3:
            continue
        # Quarters of a pixel have two decimals at most.
        points = (thinned + np.array([left, top])) / SUPERSAMPLING
        polygons.append(points.reshape(-1).tolist())
    return polygons


def _outlines(region: np.ndarray) -> list[np.ndarray]:
    """Outer contours of a region, uint8 of shape (h, w), along the edges of its grid points.

    A region with a hole is cut in two, as polygons have no holes.
    """
    # cv2's contours run through the centres of points, half a step inside the edge. Those of the
    # points' corners, of which there is one more in each direction, run along the edge.
    corners = cv2.dilate(np.pad(region, ((0, 1), (0, 1))), np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, hierarchy = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = hierarchy[0, :, 3] < 0
    holes = [
        contours[i] for i in np.flatnonzero(~outer) if cv2.contourArea(contours[i]) >= _MIN_PART
    ]
    if not holes:
        return [contours[i] for i in np.flatnonzero(outer)]
    column = int(np.rint(holes[0][:, 0, 0].mean()))
    outlines = []
    for start, half in ((0, region[:, :column]), (column, region[:, column:])):
        if half.any():
            offset = np.array([start, 0], dtype=np.int32)
            outlines += [part + offset for part in _outlines(np.ascontiguousarray(half))]
    return outlines
