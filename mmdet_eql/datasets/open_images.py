"""Open Images Challenge 2019, with its class frequencies."""

import csv
import pickle

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

    Its arguments are those of mmdet's. Files are read as mmdet reads them, pickles (``meta_file``,
    ``hierarchy_file``) included: use those of people you trust. Boxes count under the category that
    they are annotated with, and groups like single objects.

    Attributes:
        class_frequency (ClassFrequency): Counts in ``ann_file``, before any image is filtered.

    Raises:
        UserError: If a file is missing, or the files do not fit each other.
    """

    def load_data_list(self) -> list[dict]:
        """Read the annotation files.

        As mmdet does, but instances have the key ``is_group_of`` that its ``OpenImagesMetric``
        reads in place of ``is_group_ofs``.
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
        images, labels = [], []
        for index, info in enumerate(data_list):
            for instance in info["instances"]:
                instance["is_group_of"] = instance.pop("is_group_ofs")
                images.append(index)
                labels.append(instance["bbox_label"])
        names = self._metainfo["classes"]
        if labels and not 0 <= min(labels) <= max(labels) < len(names):
            raise UserError(
                f"{self.ann_file}: has boxes of labels {min(labels) + 1} to {max(labels) + 1}, and "
                f"{self.label_file} names the labels 1 to {len(names)}; give files that belong "
                "together."
            )
        self.class_frequency = ClassFrequency.from_labels(images, labels, len(data_list), names)
        return data_list
