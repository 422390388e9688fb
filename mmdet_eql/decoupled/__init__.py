"""Decoupled training: a classifier on the features of a frozen detector.

calibration         a trained classifier's logits, scaled and shifted by category
calibration_run     from a checkpoint to a calibrated one
calibration_search  every calibration on the same outputs of the network, and its metrics
class_means         the nearest-class-mean classifier
classifier_model    the detector of which the classifier alone is trained
feature_cache       the features of each RoI in memory-mapped files: format, writer, reader
feature_extraction  runs a frozen detector over the data of a config and caches its features
feature_dataset     a dataset that gives the features of its images
frozen_detector     RoIs and features of a detector up to its classifiers
training_config     from the config of a detector to that of its classifier's training
"""

from mmdet_eql.decoupled.class_means import ClassMeanHook
from mmdet_eql.decoupled.classifier_model import FrozenDetectorHook, FrozenFeatureDetector
from mmdet_eql.decoupled.feature_cache import FeatureSplit
from mmdet_eql.decoupled.feature_dataset import FeatureDataset
