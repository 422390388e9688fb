"""The Equalization Loss family for long-tailed object detection, on MMDetection 3.x.

``custom_imports=dict(imports=["mmdet_eql"])`` in a config registers everything here. Importing the
package does that, and replaces mmengine's loaders of checkpoints by safe ones
(:mod:`mmdet_eql.engine.checkpoint`); nothing else happens.

Without MMDetection, or where the environment variable ``MMDET_EQL_REGISTER`` is ``off``, nothing is
registered, and :mod:`mmdet_eql.evaluation` works in any case.

utils           errors, files, masks as RLE
frequency       the owner of class frequencies: counts images and f_j, and sets frequency groups
annotations     LVIS and COCO files: one reader, one column model, its cache
datasets        the datasets of a config, steps of their pipelines, samplers
evaluation      checks, result files and metrics
minilvis        the rendered data set
losses          EQL, EQL v2, softmax EQL, and what they are compared with
heads           RoI heads, NMS and masks for a thousand categories, test-time augmentation
engine          from a config to a run: hooks, checkpoints, resuming
decoupled       classifiers on the features of a frozen detector; calibration
runs            many trainings and their comparison
analysis        gradients, errors of a category, pictures
classification  image classifiers on the same losses and samplers
"""

import os
from importlib.util import find_spec

try:
    _mmdet_found = find_spec("mmdet") is not None
except ImportError:
    _mmdet_found = False

if _mmdet_found and os.environ.get("MMDET_EQL_REGISTER") != "off":
    from mmdet_eql import datasets, decoupled, engine, evaluation, heads, losses
    from mmdet_eql.evaluation import lvis_metric, open_images_metric  # noqa: F401

__version__ = "0.1.0"
__all__ = ["datasets", "decoupled", "engine", "evaluation", "heads", "losses"]
