"""The LVIS metric of a config: ``val_evaluator = dict(type='LVISFastMetric', ann_file=...)``."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine import fileio
from mmengine.logging import MMLogger, print_log

from mmdet_eql.annotations import read_annotations
from mmdet_eql.annotations.class_names import difference_of_classes
from mmdet_eql.evaluation.best_predictions import BestPredictions
from mmdet_eql.evaluation.bootstrap import NUM_DRAWS, interval_metrics
from mmdet_eql.evaluation.columns import (
    LVISDetections,
    LVISGroundTruth,
    check_masks,
    read_ground_truth,
)
from mmdet_eql.evaluation.dataset_check import check_images_of_dataset
from mmdet_eql.evaluation.fixed_ap import MAX_PER_CATEGORY, best_of_category_metrics
from mmdet_eql.evaluation.image_predictions import (
    ImagePredictions,
    categories_of_labels,
    check_images,
    check_labels,
    join_predictions,
    remove_repetitions,
    write_predictions,
)
from mmdet_eql.evaluation.lvis_evaluation import (
    IOU_THRESHOLDS,
    IOU_TYPES,
    MAX_DETECTIONS,
    LVISEvaluation,
    evaluate_detections,
)
from mmdet_eql.evaluation.lvis_results import write_json
from mmdet_eql.evaluation.metric_items import (
    AP_ITEMS,
    ITEMS_OF_OPTIONS,
    MASK_METRICS,
    as_tuple,
    check_groups,
    check_metrics,
    check_number,
    list_names,
)
from mmdet_eql.evaluation.proposal_recall import proposal_metrics
from mmdet_eql.evaluation.protocol import count_groups, describe_protocol, warn_of_numbers
from mmdet_eql.evaluation.tables import category_records, category_table, metric_table
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.gathered_metric import GatheredMetric, to_numpy


@METRICS.register_module()
class LVISFastMetric(GatheredMetric):
    """LVIS evaluation with the arguments of mmdet's ``LVISMetric``.

    The metrics are those of lvis-api (https://github.com/lvis-dataset/lvis-api), unrounded: AP,
    AP50, AP75, by size of the object APs, APm, APl, by frequency of the category in the training
    set APr, APc, APf, as ``lvis/bbox_AP``, ``lvis/segm_APr`` and so on; -1 without ground truth.
    All images of the annotation file count, predicted or not.

    Labels are positions in the classes of the model, matched by name with the categories of the
    annotation file; without names, positions among its categories sorted by id. The categories that
    both have are evaluated; a line in the log says so if the file lacks some or has others.

    In a COCO file every detection counts, and crowd regions are ignored, as in COCO's own
    evaluation. A line in the log says so, and where the groups of APr, APc and APf come from.

    Masks are measured by their own area, as lvis-api does with results without boxes; mmdet's
    ``LVISMetric`` hands it boxes too, and its mask APs, APm, APl go by box area.

    Args:
        ann_file (str): Annotation file in LVIS or COCO format. ``format_only`` needs no
            annotations in it.
        metric (str | Sequence[str]): 'bbox', 'segm' and 'boundary' (Boundary AP,
            :mod:`mmdet_eql.evaluation.boundary_iou`), or class-agnostic recall of boxes, for each
            of ``proposal_nums``: 'proposal' matches them by score as AP does and gives ``AR@300``,
            ``ARs@300``, ``ARm@300``, ``ARl@300``; 'proposal_fast' takes the best match of each
            object and gives ``AR@300``.
        classwise (bool): Whether to add the AP of each category, as ``lvis/bbox_zebra_precision``
            (NaN without ground truth), log a table, and, if ``outfile_prefix`` is set, write
            ``{outfile_prefix}.classwise.json``.
        proposal_nums (Sequence[int]): Proposals per image that count for 'proposal' and
            'proposal_fast'.
        iou_thrs (float | Sequence[float], optional): IoU thresholds to average over. Defaults to
            0.5, 0.55, ..., 0.95.
        metric_items (Sequence[str], optional): Metrics to return. Defaults to all AR for proposals,
            and to all AP for 'bbox' and 'segm', which also have ``AR@300``, ``ARs@300``,
            ``ARm@300``, ``ARl@300``, ``ARr@300``, ``ARc@300`` and ``ARf@300`` (of
            ``max_detections``).
        format_only (bool): Whether to write result files and evaluate nothing.
        outfile_prefix (str, optional): Where to write ``{outfile_prefix}.bbox.json`` and, if the
            model gives masks, ``{outfile_prefix}.segm.json``. Defaults to writing none.
        collect_device (str): 'cpu' or 'gpu': from where results of several processes are sent.
        prefix (str, optional): Prefix of the names of the metrics. Defaults to 'lvis'.
        backend_args (dict, optional): mmengine's file backend for ``ann_file``.
        train_ann_file (str, optional): Annotation file of the training set, whose counts of images
            give the groups of APr, APc and APf. Defaults to the groups that ``ann_file`` names.
        max_detections (int): Detections of an image that count for 'bbox' and 'segm', over all
            categories. Defaults to 300, as in LVIS, whatever the file. The model gives no more than
            its ``max_per_img``.
        fixed_ap (bool | int): Whether to add Fixed AP, of the best 10,000 detections of each
            category or another number, as ``lvis/bbox_fixed_AP``, ``lvis/bbox_fixed_APr`` and so on
            (:mod:`mmdet_eql.evaluation.fixed_ap`). A test asks a two-stage model for these
            detections (``FixedAPTestHook``); others, and validation if not asked to, give what
            ``model.test_cfg`` lets through.
        pooled_ap (bool | int): Likewise pooled AP, as ``lvis/bbox_pooled_AP`` and so on.
        bootstrap (bool | int): Whether to add the 95 % interval of AP, APr, APc and APf from 1,000
            draws of images or another number, as ``lvis/bbox_APr_low`` and ``lvis/bbox_APr_high``
            (:mod:`mmdet_eql.evaluation.bootstrap`), and of Fixed AP and pooled AP.

    Attributes:
        evaluations (dict[str, LVISEvaluation]): Of the last evaluation, by metric. On the main
            process.

    Raises:
        UserError: If an argument is invalid, or the predictions do not fit the file.

    Example:
        >>> ann_file = "data/lvis_v1/annotations/lvis_v1_val.json"
        >>> metric = LVISFastMetric(ann_file, metric=["bbox", "segm"])  # doctest: +SKIP
    """

    default_prefix = "lvis"

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        classwise: bool = False,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        backend_args: dict | None = None,
        train_ann_file: str | None = None,
        max_detections: int = MAX_DETECTIONS,
        fixed_ap: bool | int = False,
        pooled_ap: bool | int = False,
        bootstrap: bool | int = False,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file = ann_file
        self.metrics = as_tuple(metric)
        self._mask_metrics = [name for name in self.metrics if name in MASK_METRICS]
        self.classwise = classwise
        self.proposal_nums = as_tuple(proposal_nums)
        self.iou_thrs = IOU_THRESHOLDS if iou_thrs is None else as_tuple(iou_thrs)
        self.metric_items = None if metric_items is None else as_tuple(metric_items)
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args
        self.train_ann_file = train_ann_file
        self.max_detections = max_detections
        self.fixed_ap = check_number("fixed_ap", fixed_ap, MAX_PER_CATEGORY)
        self.pooled_ap = check_number("pooled_ap", pooled_ap, MAX_PER_CATEGORY)
        self.bootstrap = check_number("bootstrap", bootstrap, NUM_DRAWS)
        self.evaluations: dict[str, LVISEvaluation] = {}
        self._ground_truth: LVISGroundTruth | None = None
        self._best: BestPredictions | None = None
        self._told, self._grouped = None, True  # what was told; whether frequencies are there
        chosen = self.metrics, classwise, self.proposal_nums, self.iou_thrs, self.metric_items
        check_metrics(*chosen, max_detections, collect_device)
        self._check_files()
        self.iou_thrs = np.asarray(self.iou_thrs, dtype=np.float64)

    def _check_files(self) -> None:
        if self.ann_file is None:
            raise UserError(
                "LVISFastMetric: 'ann_file' is not set; LVIS evaluation needs the annotation file, "
                "since data samples do not carry the categories verified absent from an image."
            )
        for name, path in (("ann_file", self.ann_file), ("train_ann_file", self.train_ann_file)):
            if path is None:
                continue
            backend = fileio.get_file_backend(path, backend_args=self.backend_args)
            # Local files alone: not every remote backend can tell.
            if isinstance(backend, fileio.LocalBackend) and not backend.isfile(path):
                raise UserError(
                    f"{path}: no such annotation file; correct '{name}' of the evaluator in the "
                    "config, or prepare the dataset as the README describes."
                )
        if self.format_only and not self.outfile_prefix:
            raise UserError(
                "LVISFastMetric: 'format_only' writes result files and nothing else; set "
                "'outfile_prefix' to say where."
            )

    def metric_names(self) -> list[str]:
        """Return what :meth:`compute_metrics` may return; ``*`` where that depends on the data."""
        more = [key for key in ITEMS_OF_OPTIONS if getattr(self, key)]
        return list_names(self.metrics, self.proposal_nums, self.metric_items, more, self._grouped)

    def keep_best(self, num_classes: int, max_per_img: int) -> np.ndarray:
        """In the test to come, hold no more predictions than can count.

        ``max_per_img`` of an image count but for Fixed AP and pooled AP, all if it is not positive.
        Return the score of each class above which one can count, float32 of shape (C,), which rises
        while predictions come in.
        """
        recall = bool(set(self.metrics) - set(IOU_TYPES))
        per_image = max((self.max_detections, *self.proposal_nums * recall))
        per_image = min(per_image, max_per_img) if max_per_img > 0 else per_image
        number = max(self.fixed_ap or 0, self.pooled_ap or 0)
        self._best = BestPredictions(number, per_image, num_classes)
        return self._best.thresholds

    def check_dataset(self, dataset: Any) -> None:
        """Open the annotation files before the first image, for the classes of ``dataset_meta``.

        A UserError if a file cannot be used, or does not fit the data set or the classes.
        """
        columns = read_annotations(self.ann_file, self.backend_args, not self.format_only)
        check_images_of_dataset(dataset, columns, self.ann_file)
        if self.format_only:
            self._categories(columns.category_id, columns.category_name)
            return
        self._evaluated(LVISGroundTruth.from_columns(columns, self.ann_file))
        if self._mask_metrics:
            check_masks(columns, self.ann_file)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the predictions for a batch of images.

        A data sample has ``img_id`` and ``pred_instances``: ``bboxes`` (x1, y1, x2, y2 in pixels of
        the original image, shape (N, 4)), ``scores`` and ``labels`` of shape (N,), and, where the
        model gives them, ``masks`` (bool of shape (N, H, W), or N masks as compressed RLE) and
        ``mask_scores``.

        Raises:
            UserError: If 'segm' is asked for and there are no masks, or a label is out of range.
        """
        # Result files hold masks whether or not they are evaluated.
        masks = ["masks"] if self._mask_metrics or self.outfile_prefix else []
        wanted = ["bboxes", "scores", "labels", "mask_scores", *masks]
        classes = (self.dataset_meta or {}).get("classes")
        if self._best is not None:
            self._best.make_room(self.results)
        for sample in data_samples:
            pred = sample["pred_instances"]
            pred = {name: to_numpy(pred[name]) for name in wanted if name in pred}
            result = ImagePredictions.from_arrays(int(sample["img_id"]), pred)
            if self._mask_metrics and result.masks is None:
                raise UserError(
                    f"LVISFastMetric: metric {self._mask_metrics[0]!r} needs masks, but the model "
                    f"gives none for image {result.image_id}; use metric='bbox' with this model."
                )
            if classes is not None:
                check_labels([result], len(classes), self.ann_file)
            self.results.append(result)

    def compute_metrics(self, results: list[ImagePredictions]) -> dict[str, float]:
        """Evaluate the predictions of all images, write result files, or both.

        Return metrics by name, none with ``format_only``. A UserError if the predictions do not fit
        the annotation file.
        """
        logger = MMLogger.get_current_instance()
        results = remove_repetitions(results, logger)
        if num_dropped := sum(result.num_dropped for result in results):
            logger.warning(
                f"{num_dropped:,} detections left out: a coordinate or score is not a finite "
                "number. Has training diverged?"
            )
        if self.format_only:
            file = read_annotations(self.ann_file, self.backend_args, annotated=False)
            categories = file.category_id, file.category_name
        else:
            ground_truth = self._load_ground_truth()
            categories = ground_truth.category_ids, ground_truth.category_names
        category_of_label, is_known = self._categories(*categories)
        check_labels(results, len(category_of_label), self.ann_file)
        if not self.format_only:
            options = bool(self._mask_metrics), self.max_detections
            check_images(results, ground_truth, self.ann_file, *options, logger)
        known = [result.take(is_known[result.labels]) for result in results]
        usual, usual_known = results, known
        if self._best is not None:  # what the model gives without being asked for Fixed AP
            usual = [self._best.of_image(result) for result in results]
            usual_known = [result.take(is_known[result.labels]) for result in usual]
        if self.outfile_prefix:
            paths = write_predictions(self.outfile_prefix, known, category_of_label)
            logger.info(f"Results written to {' and '.join(paths)}.")
        if self.format_only:
            return {}
        if not any(len(result.labels) for result in results):
            logger.warning("The model found nothing in any image: precision and recall are 0.")
        ground_truth = self._evaluated(ground_truth)

        self.evaluations, metrics = {}, {}
        for metric in self.metrics:
            if metric in IOU_TYPES:
                columns = ground_truth, category_of_label, metric
                every = join_predictions(known, *columns)
                detections = join_predictions(usual_known, *columns) if self._best else every
                evaluation = evaluate_detections(
                    ground_truth, detections, metric, self.iou_thrs, self.max_detections
                )
                self.evaluations[metric] = evaluation
                metrics.update(self._select_metrics(evaluation, metric))
                metrics.update(self._more_metrics(ground_truth, every, metric))
            else:
                metrics.update(self._evaluate_proposals(ground_truth, usual, metric))
        if self.evaluations:
            protocol = "COCO" if ground_truth.judged is None else "LVIS"
            logger.info("\n" + metric_table(self.evaluations, protocol))
        if self.classwise and self.outfile_prefix:
            path = f"{self.outfile_prefix}.classwise.json"
            categories = category_records(ground_truth, self.evaluations)
            write_json(path, {"ann_file": self.ann_file, "categories": categories})
            logger.info(f"AP of each category written to {path}.")
        return metrics

    def _select_metrics(self, evaluation: LVISEvaluation, metric: str) -> dict[str, float]:
        values = evaluation.metrics() | evaluation.recall_by_frequency()
        items = AP_ITEMS if self.metric_items is None else self.metric_items
        returned = {f"{metric}_{item}": values[item] for item in items if item in values}
        if self.classwise:
            names, category_ap = evaluation.category_names, evaluation.category_ap().tolist()
            print_log("\n" + category_table(metric, names, category_ap), "current")
            for name, ap in zip(names, category_ap, strict=True):
                returned[f"{metric}_{name}_precision"] = ap
        return returned

    def _more_metrics(
        self, ground_truth: LVISGroundTruth, detections: LVISDetections, metric: str
    ) -> dict[str, float]:
        """Fixed AP, pooled AP and intervals, where they are asked for."""
        evaluated = ground_truth, detections, metric
        values = best_of_category_metrics(*evaluated, self.fixed_ap, self.pooled_ap, self.iou_thrs)
        if self.bootstrap:
            most = self._best.per_image if self._best else self.max_detections
            limits = self.fixed_ap, self.pooled_ap, self.iou_thrs, min(most, self.max_detections)
            metrics = self.evaluations[metric].metrics() | values
            values |= interval_metrics(*evaluated, metrics, self.bootstrap, *limits)
        if values:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            print_log(f"{metric}: {shown}", "current")
        return {f"{metric}_{name}": value for name, value in values.items()}

    def _evaluate_proposals(
        self, ground_truth: LVISGroundTruth, results: list[ImagePredictions], metric: str
    ) -> dict[str, float]:
        proposals = join_predictions(results, ground_truth, None, "bbox")
        how = metric, self.proposal_nums, self.iou_thrs, MMLogger.get_current_instance()
        values = proposal_metrics(ground_truth, proposals, *how)
        if self.metric_items is not None:
            values = {item: value for item, value in values.items() if item in self.metric_items}
        shown = ", ".join(f"{item} {value:.4f}" for item, value in values.items())
        print_log(f"{metric}: {shown}", "current")
        return values

    def _load_ground_truth(self) -> LVISGroundTruth:
        if self._ground_truth is None:
            masks = bool(self._mask_metrics)
            self._ground_truth = read_ground_truth(self.ann_file, masks, self.backend_args)
        limit = self.max_detections if set(self.metrics) & set(IOU_TYPES) else np.inf
        for sentence, level in (
            (describe_protocol(self._ground_truth, self.train_ann_file), logging.INFO),
            (warn_of_numbers(self._ground_truth, limit), logging.WARNING),
        ):
            if sentence is not None:
                print_log(f"{self.ann_file}: {sentence}", "current", level)
        return self._ground_truth

    def _categories(self, ids: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The category id of each label, and whether the file has one at all."""
        classes = (self.dataset_meta or {}).get("classes")
        found = categories_of_labels(classes, ids, names, self.ann_file)
        difference = classes and difference_of_classes(classes, names, self.ann_file)
        if difference and difference != self._told:
            self._told = difference
            MMLogger.get_current_instance().warning(difference)
        return found

    def _evaluated(self, ground_truth: LVISGroundTruth) -> LVISGroundTruth:
        """Leave out the categories that are no classes, and count the groups of the others."""
        ids, known = self._categories(ground_truth.category_ids, ground_truth.category_names)
        if known.sum() < len(ground_truth.category_ids):
            ground_truth = ground_truth.select_categories(ids[known])
        files = self.train_ann_file, self.ann_file
        ground_truth = count_groups(ground_truth, *files, self.backend_args)
        self._grouped = ground_truth.frequencies is not None
        check_groups(self.metric_items, ground_truth.frequencies, self.ann_file)
        return ground_truth
