"""Evaluation by the LVIS protocol, on LVIS and COCO files.

Needs neither PyTorch nor MMDetection but in the metrics of a config, ``*_metric.py``::

    columns             ground truth and detections as columns of numbers
    matching            matching and accumulation, by hotcoco
    matches             what becomes of each detection, for what hotcoco does not have
    boundary_iou        IoU of masks and their boundaries, for Boundary AP
    protocol            how an annotation file is evaluated, and which of its categories are rare
    lvis_evaluation     AP and AR, of the best 300 detections of an image
    fixed_ap            AP of the best detections of each category: Fixed AP, pooled AP
    best_predictions    keeping what can count for Fixed AP while a model is tested
    bootstrap           error bars of AP, by drawing images
    error_kinds         why AP is lost: kinds of errors, and what they cost
    lvis_results        result files: reading, checking, writing them
    result_mistakes     which mistake a wrong result file looks like
    file_evaluation     evaluating the result files of any project, side by side
    proposal_recall     class-agnostic recall by the best match of each object
    result_fusion       merging the result files of several models
    tables              metrics as tables for the log
    metric_items        names of the metrics, and checks of the arguments that choose them
    lvis_metric         the metric of a config: LVISFastMetric
    image_predictions   what it keeps of a model's predictions in an image
    comparison_plot     a figure of result files side by side
    dataset_check       whether an annotation file has the images of the data set that is tested
    open_images_metric  the metric of a config for Open Images: AP by frequency group
"""

from mmdet_eql.evaluation.columns import LVISDetections, LVISGroundTruth, read_ground_truth
from mmdet_eql.evaluation.file_evaluation import FileEvaluation, compare_files
from mmdet_eql.evaluation.lvis_evaluation import LVISEvaluation, evaluate_detections
from mmdet_eql.evaluation.lvis_results import read_results, write_results
from mmdet_eql.evaluation.proposal_recall import proposal_recall
