"""Ground truth and detections as columns of numbers.

Glossary:
    I: images of the annotation file, sorted by id.
    C: categories, sorted by id.
    G: annotations (ground truth) with an area.
    D: detections.

A *group* is an image and a category, written as one integer ``image * C + category``, with
positions rather than ids.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pycocotools.mask as mask_utils

from mmdet_eql.annotations import AnnotationColumns, read_annotations
from mmdet_eql.annotations.box_format import refuse_fractional_polygons
from mmdet_eql.annotations.segmentation import PARTLY, WHOLE, segmentation_problem
from mmdet_eql.utils.errors import UserError

#: Values of a category's ``frequency``: rare, common and frequent in the training set.
FREQUENCY_GROUPS = ("r", "c", "f")


@dataclass(frozen=True, eq=False)
class LVISGroundTruth:
    """What an annotation file says about its images.

    Args:
        image_ids (np.ndarray): int64 of shape (I,), sorted.
        image_sizes (np.ndarray): Height and width in pixels, int64 of shape (I, 2).
        category_ids (np.ndarray): int64 of shape (C,), sorted.
        category_names (tuple[str]): C names.
        frequencies (np.ndarray, optional): 'r', 'c' or 'f', shape (C,); None if unknown.
        image (np.ndarray): Position of each annotation's image, int64 of shape (G,).
        category (np.ndarray): Position of each annotation's category, int64 of shape (G,).
        area (np.ndarray): In square pixels, float64 of shape (G,).
        ignore (np.ndarray): What is neither to be found nor missed, bool of shape (G,).
        boxes (np.ndarray): x, y, width, height in pixels, float64 of shape (G, 4).
        masks (np.ndarray, optional): Compressed RLE ``counts`` as bytes, object of shape (G,).
        judged (np.ndarray, optional): Sorted groups that are annotated or verified absent, int64;
            None if every image judges every category, as in COCO.
        not_exhaustive (np.ndarray): Sorted groups of which instances may be missing, int64.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    category_ids: np.ndarray
    category_names: tuple[str, ...]
    frequencies: np.ndarray | None
    image: np.ndarray
    category: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None
    judged: np.ndarray | None
    not_exhaustive: np.ndarray

    @classmethod
    def from_columns(
        cls, columns: AnnotationColumns, path: str, with_masks: bool = False
    ) -> "LVISGroundTruth":
        """Select and order what evaluation needs of an annotation file; ``path`` is its name.

        In a COCO file, crowd regions are ignored: neither to be found nor missed.

        Raises:
            UserError: If a ``frequency`` is missing for some categories only or unknown, or a mask
                cannot be encoded.
        """
        # What is left out does not count as annotated either, so that nothing found there is wrong.
        is_object = columns.is_object()
        kept = np.flatnonzero(is_object)
        if columns.federated:
            _warn_of_lvis_api(columns, is_object, path)
        by_id = np.argsort(columns.image_id)
        position = np.argsort(by_id)
        num_categories = len(columns.category_id)
        image, category = position[columns.annotation_image][kept], columns.category[kept]

        def groups(start: np.ndarray, categories: np.ndarray) -> np.ndarray:
            return np.repeat(position, np.diff(start)) * num_categories + categories

        judged = None
        if columns.federated:
            absent = groups(columns.negative_start, columns.negative)
            judged = np.unique(np.append(image * num_categories + category, absent))
        return cls(
            image_ids=columns.image_id[by_id],
            image_sizes=columns.image_size[by_id],
            category_ids=columns.category_id,
            category_names=columns.category_name,
            frequencies=_frequencies(columns, path),
            image=image,
            category=category.astype(np.int64),
            area=columns.area[kept],
            ignore=columns.ignored[kept] | (columns.crowd[kept] & (not columns.federated)),
            boxes=columns.box[kept],
            masks=_masks(columns, kept, path) if with_masks else None,
            judged=judged,
            not_exhaustive=np.unique(groups(columns.not_exhaustive_start, columns.not_exhaustive)),
        )

    def select_categories(self, category_ids: Sequence[int]) -> "LVISGroundTruth":
        """Return the ground truth of some categories, as if the file did not know the others."""
        every = np.ones(len(self.image_ids), dtype=bool)
        return self._select(every, np.isin(self.category_ids, category_ids))

    def select_images(
        self, image_ids: Sequence[int], detections: "LVISDetections"
    ) -> tuple["LVISGroundTruth", "LVISDetections"]:
        """Return ground truth and detections of some images, as if there were no others."""
        chosen = np.isin(self.image_ids, image_ids)
        seen = detections.take(chosen[detections.image])
        every = np.ones(len(self.category_ids), dtype=bool)
        position = np.cumsum(chosen) - 1
        return self._select(chosen, every), replace(seen, image=position[seen.image])

    def _select(self, images: np.ndarray, categories: np.ndarray) -> "LVISGroundTruth":
        """Select images and categories, bool of shape (I,) and (C,)."""
        image_at, category_at = np.cumsum(images) - 1, np.cumsum(categories) - 1
        kept = images[self.image] & categories[self.category]

        def regroup(groups: np.ndarray) -> np.ndarray:
            image, category = np.divmod(groups, len(self.category_ids))
            inside = images[image] & categories[category]
            return image_at[image[inside]] * categories.sum() + category_at[category[inside]]

        return replace(
            self,
            image_ids=self.image_ids[images],
            image_sizes=self.image_sizes[images],
            category_ids=self.category_ids[categories],
            category_names=tuple(np.array(self.category_names, dtype=object)[categories]),
            frequencies=None if self.frequencies is None else self.frequencies[categories],
            image=image_at[self.image[kept]],
            category=category_at[self.category[kept]],
            area=self.area[kept],
            ignore=self.ignore[kept],
            boxes=self.boxes[kept],
            masks=None if self.masks is None else self.masks[kept],
            judged=None if self.judged is None else regroup(self.judged),
            not_exhaustive=regroup(self.not_exhaustive),
        )

    def merge_categories(self) -> "LVISGroundTruth":
        """Return the same annotations in one category that every image judges.

        For class-agnostic recall; precision means nothing, since most objects are not annotated.
        """
        return replace(
            self,
            category_ids=np.zeros(1, dtype=np.int64),
            category_names=("object",),
            frequencies=None,
            category=np.zeros_like(self.category),
            judged=None,
            not_exhaustive=np.zeros(0, dtype=np.int64),
        )


@dataclass(frozen=True, eq=False)
class LVISDetections:
    """Detections in the order in which the model gave them.

    Of equal scores in an image the earlier detection goes first.

    Args:
        image (np.ndarray): Position in ``LVISGroundTruth.image_ids``, int64 of shape (D,).
        category (np.ndarray): Position in ``LVISGroundTruth.category_ids``, int64 of shape (D,).
        score (np.ndarray): float64 of shape (D,), finite.
        boxes (np.ndarray, optional): x, y, width, height in pixels, float64 of shape (D, 4). Where
            they are given they set the area of a mask, too, as in lvis-api.
        masks (np.ndarray, optional): Compressed RLE ``counts`` as bytes, object of shape (D,), in
            the size of their image.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    @classmethod
    def concatenate(cls, blocks: Sequence["LVISDetections"]) -> "LVISDetections":
        """Join at least one block, in order; all have boxes or none, likewise masks."""
        if len(blocks) == 1:
            return blocks[0]
        columns = ([getattr(block, field.name) for block in blocks] for field in fields(cls))
        return cls(*(None if of[0] is None else np.concatenate(of) for of in columns))

    def take(self, index: np.ndarray | slice) -> "LVISDetections":
        """Return the detections at some positions, in their order."""
        columns = (getattr(self, field.name) for field in fields(self))
        return LVISDetections(*(None if of is None else of[index] for of in columns))


def rank_in_groups(group: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the rank of each score among those of its group: 0 for the highest.

    Of equal scores the first goes first.

    Args:
        group (np.ndarray): int64 of shape (N,), not negative.
        score (np.ndarray): Floating point of shape (N,).
    """
    order = np.lexsort((-score, group))
    counts = np.bincount(group)
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - (np.cumsum(counts) - counts)[group[order]]
    return rank


def common_rows(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each value that two columns share, such as an image, and the rows that have it in both,
    each in their order."""
    orders = [np.argsort(of, kind="stable") for of in (one, other)]
    ordered = (of[order] for of, order in zip((one, other), orders, strict=True))
    both = np.intersect1d(one, other)
    sides = ((of, side) for of in ordered for side in ("left", "right"))
    bounds = [np.searchsorted(of, both, side).tolist() for of, side in sides]
    for value, start, end, first, last in zip(both.tolist(), *bounds, strict=True):
        yield value, orders[0][start:end], orders[1][first:last]


def read_ground_truth(
    ann_file: str, with_masks: bool = False, backend_args: dict | None = None
) -> LVISGroundTruth:
    """Read an annotation file in LVIS or COCO format, or its cache.

    Args:
        ann_file (str): Annotation file.
        with_masks (bool): Whether to encode the masks as well.
        backend_args (dict, optional): mmengine's file backend.

    Raises:
        UserError: If the file cannot be used.
    """
    columns = read_annotations(ann_file, backend_args)
    return LVISGroundTruth.from_columns(columns, ann_file, with_masks)


def _warn_of_lvis_api(columns: AnnotationColumns, is_object: np.ndarray, path: str) -> None:
    """Say where metrics differ from lvis-api's, since the file holds what it should not."""
    for those, what in (
        (
            is_object & (columns.annotation_id == 0),
            "the id 0, which lvis-api never counts as found; it counts here; number annotations "
            "from 1",
        ),
        (
            is_object & columns.area_filled,
            "no 'area' above 0, so that lvis-api does not count it; here its area is width x "
            "height; correct the file",
        ),
        (
            ~is_object & ~columns.area_filled,
            "a box without width or height, which lvis-api counts as missed; it is left out here; "
            "correct the file",
        ),
    ):
        if those.any():
            more = f" (and {np.count_nonzero(those) - 1:,} more)" if those.sum() > 1 else ""
            warnings.warn(
                f"{path}: annotation {columns.annotation_id[those.argmax()]}{more} has {what} to "
                "get the same metrics from lvis-api.",
                stacklevel=3,
            )


def _frequencies(columns: AnnotationColumns, path: str) -> np.ndarray | None:
    values = columns.category_frequency
    if all(value is None for value in values):
        return None
    rows = zip(columns.category_id, columns.category_name, values, strict=True)
    for category_id, name, value in rows:
        if value not in FREQUENCY_GROUPS:
            raise UserError(
                f"{path}: category {category_id} ({name!r}) has frequency {value!r}; it must be "
                "'r', 'c' or 'f', for all categories or for none."
            )
    return np.array(values)


def check_masks(columns: AnnotationColumns, path: str) -> None:
    """Raise a UserError if a mask that evaluation counts cannot be encoded, without doing it."""
    unusable = columns.is_object() & ~np.isin(columns.segmentation_state, (WHOLE, PARTLY))
    _masks(columns, np.flatnonzero(unusable)[:1], path)


def _masks(columns: AnnotationColumns, annotations: np.ndarray, path: str) -> np.ndarray:
    """Encode segmentations as compressed RLE: bytes, object of shape (N,)."""
    refuse_fractional_polygons(columns, path)
    masks = np.empty(len(annotations), dtype=object)
    sizes = columns.image_size[columns.annotation_image[annotations]].tolist()
    for index, annotation in enumerate(annotations.tolist()):
        height, width = sizes[index]
        segmentation = columns.segmentation(annotation)
        if segmentation is None:
            given = columns.given_segmentation(annotation) or []
            raise UserError(
                f"{path}: annotation {columns.annotation_id[annotation]} has no usable "
                f"'segmentation'; {segmentation_problem(given, height, width)}."
            )
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            masks[index] = segmentation["counts"].encode("ascii")
            continue
        rle = mask_utils.frPyObjects(segmentation, height, width)
        masks[index] = (mask_utils.merge(rle) if isinstance(rle, list) else rle)["counts"]
    return masks
