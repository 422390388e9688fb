"""Accuracy over all classes, and over those with many, medium and few training images.

Glossary:
    C: number of classes.
    n_j: number of training images of class j.
    many, medium, few: n_j above 100, from 20 to 100, and below 20 (Liu et al., arXiv 1904.05160).
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.registry import METRICS

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.gathered_metric import GatheredMetric


def shot_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return bool masks, shape (C,), of ``"many"``, ``"medium"`` and ``"few"`` from n_j."""
    many, few = counts > 100, counts < 20
    return {"many": many, "medium": ~many & ~few, "few": few}


@METRICS.register_module()
class LongTailAccuracy(GatheredMetric):
    """Top-k accuracy in percent, over all images and by training count.

    ``top1``, ``top5``, ... are over all images; ``many``, ``medium`` and ``few`` are means of the
    top-1 accuracies of their classes, and missing if the group has no images. The rank of a label
    is the number of classes that do not score lower, so that ties and NaN count against it. The
    training counts come from ``TrainingCountsHook``.

    Args:
        topk (Sequence[int]): The k of top-k.
        classwise (bool): Whether to add the accuracy of each class, ``<name>_accuracy``.
        **kwargs: ``collect_device`` and ``prefix``, as in mmengine's ``BaseMetric``.

    Raises:
        UserError: If a k is below 1.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: Sequence[int] = (1, 5), classwise: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        if not all(isinstance(k, int) and k >= 1 for k in topk):
            raise UserError(f"LongTailAccuracy: topk is {tuple(topk)}; give whole numbers above 0.")
        self.topk = tuple(topk)
        self.classwise = classwise
        self.class_counts: np.ndarray | None = None

    def set_class_counts(self, counts: np.ndarray) -> None:
        """Set n_j, shape (C,)."""
        self.class_counts = np.asarray(counts)

    def metric_names(self) -> list[str]:
        """Return what :meth:`compute_metrics` may return; ``*`` stands for a class."""
        names = [*(f"top{k}" for k in self.topk), "many", "medium", "few"]
        return names + ["*_accuracy"] * self.classwise

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the label of each image and its rank, from 0 on."""
        scores = torch.stack([sample["scores"] for sample in data_samples])
        labels = torch.tensor([sample["gt_label"] for sample in data_samples], device=scores.device)
        own = scores.gather(1, labels[:, None])
        rank = scores.shape[1] - 1 - (scores < own).sum(dim=1)
        self.results += zip(labels.tolist(), rank.tolist(), strict=True)

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Return the metrics in percent from the label and the rank of each image.

        Raises:
            UserError: If the training counts are missing or of another number of classes.
        """
        classes = self.dataset_meta["classes"]
        if self.class_counts is None or len(self.class_counts) != len(classes):
            known = "no" if self.class_counts is None else len(self.class_counts)
            raise UserError(
                f"LongTailAccuracy has {known} training counts for {len(classes)} classes; add "
                "dict(type='TrainingCountsHook') to custom_hooks, and evaluate on the classes that "
                "the model was trained on."
            )
        label, rank = np.array(results, dtype=np.int64).T
        metrics = {f"top{k}": 100 * float((rank < k).mean()) for k in self.topk}
        images = np.bincount(label, minlength=len(classes))
        hits = np.bincount(label[rank < 1], minlength=len(classes))
        seen = images > 0
        accuracy = 100 * hits / np.maximum(images, 1)
        for group, members in shot_groups(self.class_counts).items():
            if (members & seen).any():
                metrics[group] = float(accuracy[members & seen].mean())
        if self.classwise:
            metrics |= {f"{classes[j]}_accuracy": float(accuracy[j]) for j in np.flatnonzero(seen)}
        return metrics
