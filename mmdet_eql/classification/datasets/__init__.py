"""Datasets with one label per image.

base           bases: counts, labels for samplers, images in memory
long_tail      cutting a balanced set to an exponential profile
cifar          CIFAR-10-LT and CIFAR-100-LT, from the official archives
image_files    image lists (ImageNet-LT, Places-LT) and folders of images
crops          MiniLVIS crops: rendering them, and their dataset
transforms     augmentation that MMCV lacks; packing image and label
"""

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
