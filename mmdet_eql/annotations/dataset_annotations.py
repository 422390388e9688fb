"""The annotations of a file under the labels of one dataset, which may leave categories out."""

from collections.abc import Sequence

import numpy as np

from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.instance_labels import InstanceLabels
from mmdet_eql.frequency import ClassFrequency


class DatasetAnnotations:
    """What a dataset makes of an annotation file.

    An annotation becomes an instance by the rules of mmdet's ``CocoDataset``: it has one of the
    dataset's categories, is not marked ``ignore``, has an area, is at least a pixel wide and high
    and lies at least partly inside its image.

    Args:
        columns (AnnotationColumns): The file, also an attribute.
        category_ids (Sequence[int]): Ids of the categories with the labels 0 to C - 1, in the file.

    Attributes:
        labels (InstanceLabels): Labels of the instances of each image of the file.
        class_frequency (ClassFrequency): Counts of all annotations, whether instances or not, over
            all images of the file.
    """

    def __init__(self, columns: AnnotationColumns, category_ids: Sequence[int]) -> None:
        self.columns = columns
        position = np.searchsorted(columns.category_id, category_ids)
        self._label_of_category = np.full(len(columns.category_id), -1, dtype=np.int64)
        self._label_of_category[position] = np.arange(len(position))
        self._label = self._label_of_category[columns.category]
        self._image = columns.annotation_image
        self._is_instance = self._find_instances()
        instances_before = np.append(0, np.cumsum(self._is_instance))
        self.labels = InstanceLabels(
            instances_before[columns.annotation_start], self._label[self._is_instance]
        )
        known = self._label >= 0
        self.class_frequency = ClassFrequency.from_labels(
            self._image[known],
            self._label[known],
            columns.num_images,
            [columns.category_name[index] for index in position.tolist()],
        )

    def __deepcopy__(self, memo: dict) -> "DatasetAnnotations":
        return self  # subsets of a dataset share it

    def annotated_images(self) -> np.ndarray:
        """Whether an image has an annotation of one of the labels, bool of shape (images,)."""
        return np.bincount(self._image[self._label >= 0], minlength=self.columns.num_images) > 0

    def positives(self, image: int) -> list[int]:
        """Sorted labels of the annotations of an image, whether instances or not."""
        return sorted({*self._label[self.columns.annotations(image)].tolist()} - {-1})

    def negatives(self, image: int) -> list[int]:
        """Sorted labels that are verified absent from an image."""
        return sorted({*self._label_of_category[self.columns.negatives(image)].tolist()} - {-1})

    def instances(self, image: int) -> list[dict]:
        """The instances of an image, as mmdet's ``CocoDataset`` gives them."""
        columns, here = self.columns, self.columns.annotations(image)
        chosen = here.start + np.flatnonzero(self._is_instance[here])
        boxes = columns.box[chosen]
        with np.errstate(over="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        instances = []
        for annotation, box in zip(chosen.tolist(), boxes.tolist(), strict=True):
            instance = {
                "ignore_flag": int(columns.crowd[annotation]),
                "bbox": box,
                "bbox_label": int(self._label[annotation]),
            }
            segmentation = columns.segmentation(annotation)
            if segmentation:
                instance["mask"] = segmentation
            instances.append(instance)
        return instances

    def _find_instances(self) -> np.ndarray:
        columns = self.columns
        size = columns.image_size[self._image]
        kept = (self._label >= 0) & ~columns.ignored & (columns.area > 0)
        # Coordinates far beyond any image may overflow; they lie outside, too.
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, limit in ((0, size[:, 1]), (1, size[:, 0])):
                low, length = columns.box[:, axis], columns.box[:, 2 + axis]
                inside = np.minimum(low + length, limit) - np.maximum(low, 0)
                kept &= (inside > 0) & (length >= 1)
        return kept
