"""Long-tailed image classification with the losses, samplers and hooks of the package.

``custom_imports=dict(imports=["mmdet_eql.classification"])`` in a config registers everything.

    datasets/            CIFAR-LT, image lists and folders, MiniLVIS crops
    backbones            CIFARResNet, ResNet10
    models               image classifier and its head
    losses               balanced softmax, LDAM
    long_tail_accuracy   top-k accuracy; accuracy of many, medium and few shots
    hooks                training counts, epochs, the second stage
"""

from mmdet_eql.classification import (
    backbones,
    datasets,
    hooks,
    long_tail_accuracy,
    losses,
    models,
)
