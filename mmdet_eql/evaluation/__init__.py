"""Evaluation on LVIS."""

from mmdet_eql.evaluation.lvis_evaluation import (
    LVISDetections,
    LVISEvaluation,
    LVISGroundTruth,
    evaluate_detections,
)
from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from mmdet_eql.evaluation.lvis_results import (
    evaluate_files,
    read_ground_truth,
    read_results,
    write_results,
)
from mmdet_eql.evaluation.open_images_metric import OpenImagesGroupMetric
from mmdet_eql.evaluation.proposal_recall import proposal_recall

__all__ = [
    "LVISDetections",
    "LVISEvaluation",
    "LVISFastMetric",
    "LVISGroundTruth",
    "OpenImagesGroupMetric",
    "evaluate_detections",
    "evaluate_files",
    "proposal_recall",
    "read_ground_truth",
    "read_results",
    "write_results",
]
