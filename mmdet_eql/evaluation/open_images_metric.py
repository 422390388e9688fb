"""AP on Open Images by how often a category is annotated."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmdet.evaluation import OpenImagesMetric, eval_map
from mmdet.evaluation.functional.mean_ap import tpfp_openimages
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from mmdet_eql.annotations.open_images import count_challenge_boxes
from mmdet_eql.utils.gathered_metric import GatheredMetric


@METRICS.register_module()
class OpenImagesGroupMetric(GatheredMetric, OpenImagesMetric):
    """mmdet's ``OpenImagesMetric``, with AP by frequency group and unrounded.

    The categories, sorted by their number of training boxes, are cut into groups of equal size.
    ``openimages/AP1`` is the mean AP of the group with the fewest boxes, and ``openimages/AP5``
    that of the one with the most: the five groups of 100 that the EQL v2 paper (arXiv 2012.08548)
    reports. ``AP50`` is for an IoU threshold of 0.5, and ``mAP`` the mean over the thresholds. -1
    stands for a group without ground truth.

    Args:
        train_ann_file (str): Annotation file of the training set.
        backend_args (dict, optional): mmengine's file backend for ``train_ann_file``.
        **kwargs: Those of ``OpenImagesMetric``.

    Raises:
        UserError: If the file cannot be read.

    Example:
        >>> train_file = "data/challenge2019/challenge-2019-train-detection-bbox.txt"
        >>> evaluator = dict(type="OpenImagesGroupMetric", train_ann_file=train_file)  # in a config
    """

    num_groups = 5  #: As in that paper.

    def __init__(
        self, train_ann_file: str, backend_args: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.train_ann_file = train_ann_file
        self.backend_args = backend_args
        self._group: np.ndarray | None = None

    def check_dataset(self, dataset: Any) -> None:
        """Read the training set's counts before the first image; a UserError if that fails."""
        self._group = self._groups()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics of the ground truth and detections of each image, by name."""
        if self._group is None:
            self._group = self._groups()
        ground_truth, detections = zip(*results, strict=True)
        metrics, group_ap = {}, []
        for iou_thr, ioa_thr in zip(self.iou_thrs, self.ioa_thrs, strict=True):
            with _default_sigterm():
                mean_ap, of_category = eval_map(
                    detections,
                    ground_truth,
                    scale_ranges=self.scale_ranges,
                    iou_thr=iou_thr,
                    ioa_thr=ioa_thr,
                    dataset=self.dataset_meta["classes"],
                    tpfp_fn=tpfp_openimages,
                    logger=MMLogger.get_current_instance(),
                    use_group_of=self.use_group_of,
                )
            metrics[f"AP{int(iou_thr * 100):02d}"] = float(np.mean(mean_ap))
            group_ap.append(self._mean_by_group(of_category))
        metrics["mAP"] = sum(metrics.values()) / len(metrics)
        means = np.mean(group_ap, axis=0).tolist()
        return metrics | {f"AP{group}": ap for group, ap in enumerate(means, start=1)}

    def _groups(self) -> np.ndarray:
        """Group of each category, from 0 for the fewest boxes: int64 of shape (C,)."""
        num_classes = len(self.dataset_meta["classes"])
        count = count_challenge_boxes(self.train_ann_file, num_classes, self.backend_args)
        group = np.empty(num_classes, dtype=np.int64)
        by_count = np.array_split(np.argsort(count, kind="stable"), self.num_groups)
        for index, members in enumerate(by_count):
            group[members] = index
        return group

    def _mean_by_group(self, of_category: list[dict]) -> np.ndarray:
        """Mean AP of each group, over the categories with ground truth: shape (num_groups,)."""
        ap = np.array([np.mean(result["ap"]) for result in of_category])
        counts = np.array([np.sum(result["num_gts"]) > 0 for result in of_category])
        members = [counts & (self._group == group) for group in range(self.num_groups)]
        return np.array([ap[index].mean() if index.any() else -1.0 for index in members])


@contextlib.contextmanager
def _default_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run while ``eval_map`` waits for the processes that it forks off.

    Slurm signals them, too. A pool does not notice that one of them is gone, so that a training
    process which only notes the signal, to stop later, would wait for its result for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
