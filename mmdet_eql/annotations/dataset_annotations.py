"""The annotations of a file under the labels of one dataset, which may leave categories out."""

from collections.abc import Sequence

import numpy as np

from mmdet_eql.annotations.class_names import positions_of_classes
from mmdet_eql.annotations.columns import AnnotationColumns
from mmdet_eql.annotations.instance_labels import InstanceLabels
from mmdet_eql.frequency import ClassFrequency


class DatasetAnnotations:
    """What a dataset makes of an annotation file.

    An annotation becomes an instance by the rules of mmdet's ``CocoDataset``: it has one of the
    dataset's categories, is not marked ``ignore``, is at least a pixel wide and high and lies at
    least partly inside its image. One with an ``area`` of 0, which that class drops, is taken.

    Args:
        columns (AnnotationColumns): The file, also an attribute.
        classes (Sequence[str]): Names of the categories with the labels 0 to C - 1. Those that the
            file lacks have no annotations.

    Attributes:
        label (np.ndarray): Label of each annotation, -1 for those of other categories, int64 of
            shape (A,).
        known (np.ndarray): Whether an annotation has one of the labels, bool of shape (A,).
        is_instance (np.ndarray): Whether it is an instance, crowd or not, bool of shape (A,).
        labels (InstanceLabels): Labels of the instances of each image of the file.
        class_frequency (ClassFrequency): Counts of all annotations, whether instances or not, over
            all images of the file.
    """

    def __init__(self, columns: AnnotationColumns, classes: Sequence[str]) -> None:
        self.columns = columns
        # The label of each category: its position among the classes.
        self._label_of_category = positions_of_classes(columns.category_name, classes)
        self.label = self._label_of_category[columns.category]
        self.known = self.label >= 0
        self._image = columns.annotation_image
        self.is_instance = self.known & ~np.logical_or.reduce([*self.drop_reasons().values()])
        instances_before = np.append(0, np.cumsum(self.is_instance))
        self.labels = InstanceLabels(
            instances_before[columns.annotation_start], self.label[self.is_instance]
        )
        self.class_frequency = ClassFrequency.from_labels(
            self._image[self.known], self.label[self.known], columns.num_images, classes
        )

    def __deepcopy__(self, memo: dict) -> "DatasetAnnotations":
        return self  # subsets of a dataset share it

    def annotated_images(self) -> np.ndarray:
        """Whether an image has an annotation of one of the labels, bool of shape (images,)."""
        return np.bincount(self._image[self.known], minlength=self.columns.num_images) > 0

    def positives(self, image: int) -> list[int]:
        """Sorted labels of the annotations of an image, whether instances or not."""
        return sorted({*self.label[self.columns.annotations(image)].tolist()} - {-1})

    def negatives(self, image: int) -> list[int]:
        """Sorted labels that are verified absent from an image."""
        return sorted({*self._label_of_category[self.columns.negatives(image)].tolist()} - {-1})

    def instances(self, image: int) -> list[dict]:
        """The instances of an image, as mmdet's ``CocoDataset`` gives them."""
        columns, here = self.columns, self.columns.annotations(image)
        if not (is_instance := self.is_instance[here]).all():
            here = here.start + np.flatnonzero(is_instance)
        crowd, labels = columns.crowd[here].tolist(), self.label[here].tolist()
        instances = [
            {"ignore_flag": int(flag), "bbox": [x, y, x + width, y + height], "bbox_label": label}
            for flag, (x, y, width, height), label in zip(
                crowd, columns.box[here].tolist(), labels, strict=True
            )
        ]
        for instance, mask in zip(instances, columns.segmentations(here), strict=True):
            if mask:
                instance["mask"] = mask
        return instances

    def drop_reasons(self) -> dict[str, np.ndarray]:
        """Why annotations of the labels are no instances: bool of shape (A,) for each reason.

        An annotation has one reason at most.
        """
        columns = self.columns
        size = columns.image_size[self._image]
        outside = np.zeros(len(size), dtype=bool)
        # Coordinates far beyond any image may overflow; they lie outside, too.
        with np.errstate(over="ignore", invalid="ignore"):
            for axis, limit in ((0, size[:, 1]), (1, size[:, 0])):
                low, length = columns.box[:, axis], columns.box[:, 2 + axis]
                outside |= ~(np.minimum(low + length, limit) - np.maximum(low, 0) > 0)
        narrow = ~(columns.box[:, 2:] >= 1).all(axis=1)
        reasons = {
            "marked 'ignore'": columns.ignored,
            "narrower than a pixel": narrow,
            "outside their image": outside,
        }
        left = self.known
        for name, those in reasons.items():
            reasons[name] = left & those
            left = left & ~those
        return reasons

    def can_be_trained(self, images: np.ndarray) -> bool:
        """Whether some images have an instance that is no crowd, or the file no annotation."""
        used = np.zeros(self.columns.num_images, dtype=bool)
        used[images] = True
        trained = self.is_instance & ~self.columns.crowd & used[self._image]
        return bool(trained.any() or not self.known.any())
