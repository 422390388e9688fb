"""The Equalization Loss family for long-tailed object detection, on MMDetection 3.x.

``custom_imports=dict(imports=["mmdet_eql"])`` in a config registers everything here.
"""

import warnings

__version__ = "0.1.0"

# MMDetection 3.5 warns, once in every process, that a metric which nothing here uses is not there.
warnings.filterwarnings("ignore", "faster_coco_eval is not installed", UserWarning)

from mmdet_eql import datasets, engine, evaluation, heads, losses  # noqa: E402

__all__ = ["datasets", "engine", "evaluation", "heads", "losses"]
