"""Evaluation by the LVIS protocol, on LVIS and COCO files.

Needs neither PyTorch nor MMDetection but in the metrics of a config, ``*_metric.py``::

    columns             ground truth and detections as columns of numbers
    matching            matching and accumulation, by hotcoco
    lvis_evaluation     AP and AR from precision and recall
    lvis_results        result files: reading, checking, writing, evaluating them
    proposal_recall     class-agnostic recall by the best match of each object
    result_fusion       merging the result files of several models
    tables              metrics as tables for the log
    metric_items        names of the metrics, and checks of the arguments that choose them
    lvis_metric         the metric of a config: LVISFastMetric
    image_predictions   what it keeps of a model's predictions in an image
    open_images_metric  the metric of a config for Open Images: AP by frequency group
"""

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, read_ground_truth
from mmdet_eql.evaluation.lvis_evaluation import LVISEvaluation, evaluate_detections
from mmdet_eql.evaluation.lvis_results import evaluate_files, read_results, write_results
from mmdet_eql.evaluation.proposal_recall import proposal_recall

__all__ = [
    "LVISDetections",
    "LVISEvaluation",
    "LVISGroundTruth",
    "evaluate_detections",
    "evaluate_files",
    "proposal_recall",
    "read_ground_truth",
    "read_results",
    "write_results",
]
