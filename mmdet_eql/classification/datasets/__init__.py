"""Datasets with one label per image."""

from mmdet_eql.classification.datasets.cifar import LongTailedCIFAR10, LongTailedCIFAR100
from mmdet_eql.classification.datasets.crops import MiniLVISCrops
from mmdet_eql.classification.datasets.image_files import ImageFolderDataset, ImageListDataset
from mmdet_eql.classification.datasets.long_tail import exponential_counts, long_tailed_indices
from mmdet_eql.classification.datasets.transforms import (
    ColorJitter,
    PackLabelledImage,
    PaddedRandomCrop,
    RandomResizedCrop,
)

__all__ = [
    "ColorJitter",
    "ImageFolderDataset",
    "ImageListDataset",
    "LongTailedCIFAR10",
    "LongTailedCIFAR100",
    "MiniLVISCrops",
    "PackLabelledImage",
    "PaddedRandomCrop",
    "RandomResizedCrop",
    "exponential_counts",
    "long_tailed_indices",
]
