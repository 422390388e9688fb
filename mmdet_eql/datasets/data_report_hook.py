"""What the data are, in the log and the work_dir, before anything is trained."""

import os.path as osp
from collections.abc import Iterator
from logging import Logger
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdet_eql.frequency import UncountedDatasetError, class_frequency_of
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

FILE_NAME = "data_report.txt"


@HOOKS.register_module()
class DataReportHook(Hook):
    """Log what becomes of the training and validation data, and write it to ``data_report.txt``.

    The reports are those of the datasets' ``data_report`` (:class:`LVISFormatDataset`); others are
    left out. Warnings name images that are trained and validated on, frequency groups of the
    validation set that are not those of the training set, and a training set without the
    image-level labels that a loss asks for.

    Raises:
        UserError: If the training data have no annotation that counts.
    """

    def before_train(self, runner: Runner) -> None:
        """Report; see the class docstring."""
        train_sets, val_sets = [*reporting(runner.train_dataloader.dataset)], []
        if runner.val_loop is not None:
            val_sets = [*reporting(runner.val_dataloader.dataset)]
        training, validation = ([one.data_report for one in of] for of in (train_sets, val_sets))
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
        if is_main_process():
            _warn_of_common_images(train_sets, val_sets, runner.logger)
            _warn_of_groups(runner, val_sets)
            _warn_of_image_level_labels(runner.model, train_sets, runner.logger)


def reporting(dataset: Any) -> Iterator[Any]:
    """The dataset, or those that it is a wrapper of, as far as they have a ``data_report``."""
    if hasattr(dataset, "data_report"):
        yield dataset
        return
    for part in getattr(dataset, "datasets", [getattr(dataset, "dataset", None)]):
        if part is not None:
            yield from reporting(part)


def _files(dataset: Any) -> set[str]:
    folder, columns = osp.realpath(dataset.data_prefix["img"]), dataset.annotations.columns
    return {osp.join(folder, columns.path(image)) for image in dataset.data_list.tolist()}


def _warn_of_common_images(training: list, validation: list, logger: Logger) -> None:
    trained = set().union(*map(_files, training if validation else ()))
    for dataset in validation:
        common = trained & _files(dataset)
        if common:
            logger.warning(
                f"{dataset.ann_file}: {len(common):,} of its {len(dataset):,} images are trained "
                f"on, too, as {min(common)}, so that its metrics are too high; take them out of "
                "the training set, or give another validation set."
            )


def _warn_of_groups(runner: Runner, validation: list) -> None:
    """The groups of APr, APc and APf may be those of another training set."""
    metrics = getattr(getattr(runner.val_loop, "evaluator", None), "metrics", ())
    if not validation or any(getattr(metric, "train_ann_file", None) for metric in metrics):
        return
    try:
        trained = class_frequency_of(runner.train_dataloader.dataset)
    except UncountedDatasetError:
        return
    group_of = dict(zip(trained.class_names, trained.group.tolist(), strict=True))
    for dataset in validation:
        columns = dataset.annotations.columns
        named = zip(columns.category_name, columns.category_frequency, strict=True)
        others = [name for name, group in named if group and group_of.get(name, group) != group]
        if others:
            runner.logger.warning(
                f"{dataset.ann_file}: by its field 'frequency' {len(others):,} of "
                f"{len(group_of):,} categories, as {others[0]!r}, are in other groups than by "
                "their numbers of training images; APr, APc and APf go by the field, or by the "
                "numbers with train_ann_file of the evaluator."
            )


def _warn_of_image_level_labels(model: nn.Module, training: list, logger: Logger) -> None:
    if not any(getattr(module, "image_level_labels", False) for module in model.modules()):
        return
    for dataset in training:
        if not dataset.annotations.columns.federated:
            logger.warning(
                f"{dataset.ann_file}: no image has 'neg_category_ids', so that image_level_labels "
                "of the loss finds no category that is verified absent; add them, or set it to "
                "False."
            )
