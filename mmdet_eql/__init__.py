"""The Equalization Loss family for long-tailed object detection, on MMDetection 3.x.

``custom_imports=dict(imports=["mmdet_eql"])`` in a config registers everything here.
"""

__version__ = "0.1.0"

from mmdet_eql import datasets, engine, evaluation, losses, roi_heads, test_time

__all__ = ["datasets", "engine", "evaluation", "losses", "roi_heads", "test_time"]
