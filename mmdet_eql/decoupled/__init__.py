"""Decoupled training: a classifier on the features of a frozen detector.

feature_cache  the features of each RoI in memory-mapped files: format, writer, reader
"""

from mmdet_eql.decoupled.feature_cache import FeatureSplit, open_features

__all__ = ["FeatureSplit", "open_features"]
