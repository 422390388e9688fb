"""What the data are, in the log and the work_dir, before anything is trained."""

import os.path as osp
from collections.abc import Iterator
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet_eql.annotations.data_report import DataReport
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

FILE_NAME = "data_report.txt"


@HOOKS.register_module()
class DataReportHook(Hook):
    """Log what becomes of the training and validation data, and write it to ``data_report.txt``.

    The reports are those of the datasets' ``data_report`` (:class:`LVISFormatDataset`); others are
    left out.

    Raises:
        UserError: If the training data have no annotation that counts.
    """

    def before_train(self, runner: Runner) -> None:
        """Report; see the class docstring."""
        training = [*find_reports(runner.train_dataloader.dataset)]
        validation = []
        if runner.val_loop is not None:
            validation = [*find_reports(runner.val_dataloader.dataset)]
        if training and not any(report.num_left for report in training):
            raise UserError(
                f"{training[0].ann_file}: has no annotations of the classes in the images that are "
                "used, so that nothing would be trained; give annotated images."
            )
        text = "\n".join(report.text() for report in training + validation)
        if text and is_main_process():
            runner.logger.info(f"The data:\n{text}")
            write_text(osp.join(runner.work_dir, FILE_NAME), text + "\n", "set another work_dir")
        for report in validation:
            if not report.num_left:
                runner.logger.warning(
                    f"{report.ann_file}: validation has no annotations that count, so that its AP "
                    "will be -1."
                )


def find_reports(dataset: Any) -> Iterator[DataReport]:
    """The reports of a dataset, or of those that it is a wrapper of."""
    if hasattr(dataset, "data_report"):
        yield dataset.data_report
        return
    for part in getattr(dataset, "datasets", [getattr(dataset, "dataset", None)]):
        if part is not None:
            yield from find_reports(part)
