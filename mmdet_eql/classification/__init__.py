"""Long-tailed image classification on the foundations of the detection side.

``custom_imports=dict(imports=["mmdet_eql.classification"])`` in a config registers everything here,
and the losses, samplers and hooks of the package.

    datasets/            CIFAR-LT, image lists and folders, MiniLVIS crops
    backbones            ResNet-32 and its like for CIFAR, ResNet-10
    classifiers          linear, cosine; of two-stage training
    models               the classifier of images
    losses               what plain classifiers alone are trained with
    long_tail_accuracy   top-k accuracy; many, medium and few shots
    hooks                training counts, epochs, the second stage
"""

import mmdet_eql  # noqa: F401
from mmdet_eql.classification import (
    backbones,
    classifiers,
    datasets,
    hooks,
    long_tail_accuracy,
    losses,
    models,
)

__all__ = [
    "backbones",
    "classifiers",
    "datasets",
    "hooks",
    "long_tail_accuracy",
    "losses",
    "models",
]
