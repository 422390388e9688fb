"""Datasets in LVIS format."""

from mmdet_eql.datasets.image_level_labels import MixImageLevelLabels, PackLVISInputs
from mmdet_eql.datasets.image_loading import LoadVerifiedImage
from mmdet_eql.datasets.lvis import LVISFormatDataset
from mmdet_eql.datasets.lvis_format import load_lvis_json

__all__ = [
    "LVISFormatDataset",
    "LoadVerifiedImage",
    "MixImageLevelLabels",
    "PackLVISInputs",
    "load_lvis_json",
]
