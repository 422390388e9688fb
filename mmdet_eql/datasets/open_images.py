"""Open Images Challenge 2019, with its class frequencies."""

import csv
import pickle

import numpy as np
from mmdet.datasets import OpenImagesChallengeDataset
from mmdet.registry import DATASETS

from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError

#: What mmdet's reader raises for files that are missing or others than expected.
_READING_ERRORS = (
    *(OSError, ValueError, IndexError, KeyError, TypeError, AssertionError, csv.Error),
    pickle.UnpicklingError,
)


@DATASETS.register_module()
class CountedOpenImagesChallengeDataset(OpenImagesChallengeDataset):
    """mmdet's ``OpenImagesChallengeDataset``, which counts its categories.

    Its files are read as mmdet reads them, pickles (``meta_file``, ``hierarchy_file``) included:
    use those of people you trust. Boxes count under the category that they are annotated with, and
    groups like single objects.

    Args:
        **kwargs: Those of ``OpenImagesChallengeDataset``.

    Attributes:
        class_frequency (ClassFrequency): Occurrences of each category in ``ann_file``, before any
            image is filtered.

    Raises:
        UserError: If a file is missing, or the files do not fit each other.
    """

    def load_data_list(self) -> list[dict]:
        """Read the annotation files.

        Returns:
            list[dict]: One dict per image, as mmdet gives it, but with the key ``is_group_of`` that
            its ``OpenImagesMetric`` reads in place of ``is_group_ofs``.
        """
        try:
            data_list = super().load_data_list()
        except _READING_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.ann_file}: it, or a file beside it ({self.label_file}, {self.meta_file}, "
                f"{self.hierarchy_file}), cannot be read as Open Images Challenge 2019 ({reason}); "
                "prepare the dataset as docs/open-images.md describes."
            ) from None
        labels = []
        for info in data_list:
            for instance in info["instances"]:
                instance["is_group_of"] = instance.pop("is_group_ofs")
            labels.append([instance["bbox_label"] for instance in info["instances"]])
        self._check_labels(labels)
        self.class_frequency = ClassFrequency.from_labels(
            image_index=np.repeat(np.arange(len(labels)), [len(of_image) for of_image in labels]),
            label=np.array([label for of_image in labels for label in of_image], dtype=np.int64),
            num_images=len(labels),
            class_names=self._metainfo["classes"],
        )
        return data_list

    def _check_labels(self, labels: list[list[int]]) -> None:
        num_classes = len(self._metainfo["classes"])
        for of_image in labels:
            if of_image and not 0 <= min(of_image) <= max(of_image) < num_classes:
                raise UserError(
                    f"{self.ann_file}: has boxes of labels {min(of_image) + 1} to "
                    f"{max(of_image) + 1}, and {self.label_file} names the labels 1 to "
                    f"{num_classes}; give files that belong together."
                )
