"""The annotations of a file under the labels of a dataset, which may leave categories out."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmdet_eql.annotations.lvis_columns import LVISColumns
from mmdet_eql.datasets.image_labels import ImageLabels
from mmdet_eql.frequency import ClassFrequency


class LabelledAnnotations:
    """What a dataset makes of an annotation file.

    An annotation becomes an instance by the rules of mmdet's ``CocoDataset``: it has one of the
    dataset's categories, is not marked ``ignore``, has an area, is at least a pixel wide and high
    and lies at least partly inside its image.

    Args:
        columns (LVISColumns): The file.
        label_of (Mapping[int, int]): Label of each category id that the dataset has.

    Attributes:
        columns (LVISColumns): The file.
        labels (ImageLabels): Labels of the instances of each image of the file.
    """

    def __init__(self, columns: LVISColumns, label_of: Mapping[int, int]) -> None:
        self.columns = columns
        self._label_of_category = np.array(
            [label_of.get(identifier, -1) for identifier, _ in columns.categories], dtype=np.int32
        )
        self._label = self._label_of_category[columns.category]
        self._is_instance = self._find_instances()
        instances_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._is_instance)])
        self.labels = ImageLabels(
            instances_before[columns.first_annotation],
            self._label[self._is_instance].astype(np.int64),
        )

    def __deepcopy__(self, memo: dict) -> "LabelledAnnotations":
        # Subsets of a dataset share what none of them changes.
        return self

    def count(self, class_names: Sequence[str]) -> ClassFrequency:
        """Count the annotations of each label, whether instances or not.

        Args:
            class_names (Sequence[str]): Names in the order of the labels.

        Returns:
            ClassFrequency: Over all images of the file.
        """
        known = self._label >= 0
        return ClassFrequency.from_labels(
            self.columns.annotation_image[known],
            self._label[known],
            self.columns.num_images,
            class_names,
        )

    def annotated_images(self) -> np.ndarray:
        """Whether an image has an annotation of one of the labels, bool of shape (images,)."""
        images = self.columns.annotation_image[self._label >= 0]
        return np.bincount(images, minlength=self.columns.num_images) > 0

    def positives(self, image: int) -> list[int]:
        """Sorted labels of the annotations of an image, whether instances or not."""
        start, end = self._bounds(image)
        return sorted(set(self._label[start:end].tolist()) - {-1})

    def negatives(self, image: int) -> list[int]:
        """Sorted labels that are verified absent from an image."""
        labels = self._label_of_category[self.columns.negatives(image)]
        return sorted(set(labels.tolist()) - {-1})

    def instances(self, image: int) -> list[dict]:
        """The instances of an image, as mmdet's ``CocoDataset`` gives them."""
        start, end = self._bounds(image)
        chosen = np.flatnonzero(self._is_instance[start:end]).tolist()
        if not chosen:
            return []
        boxes = self.columns.box[start:end].copy()
        with np.errstate(over="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        boxes, labels = boxes.tolist(), self._label[start:end].tolist()
        crowd = self.columns.crowd[start:end].tolist()
        segmentations = self.columns.segmentations(image)
        instances = []
        for number in chosen:
            instance = {
                "ignore_flag": int(crowd[number]),
                "bbox": boxes[number],
                "bbox_label": labels[number],
            }
            if segmentations[number]:
                instance["mask"] = segmentations[number]
            instances.append(instance)
        return instances

    def _bounds(self, image: int) -> tuple[int, int]:
        start, end = self.columns.first_annotation[image : image + 2].tolist()
        return start, end

    def _find_instances(self) -> np.ndarray:
        columns = self.columns
        size = columns.image_size[columns.annotation_image]
        kept = (self._label >= 0) & ~columns.ignored & (columns.area > 0)
        # Coordinates far beyond any image may overflow; they lie outside, too.
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, limit in ((0, size[:, 1]), (1, size[:, 0])):
                low, length = columns.box[:, axis], columns.box[:, 2 + axis]
                inside = np.minimum(low + length, limit) - np.maximum(low, 0)
                kept &= (inside > 0) & (length >= 1)
        return kept
