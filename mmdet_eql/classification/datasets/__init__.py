"""Datasets with one label per image.

base           bases: counts, labels for samplers, images in memory
long_tail      cutting a balanced set to an exponential profile
cifar          CIFAR-10-LT and CIFAR-100-LT, from the official archives
image_files    image lists (ImageNet-LT, Places-LT) and folders of images
crops          MiniLVIS crops
transforms     augmentation that MMCV lacks; packing image and label
"""

from mmdet_eql.classification.datasets import (
    cifar,
    crops,
    image_files,
    transforms,
)
