# Tau-normalisation (arXiv 1910.09217): no training; test it with a softmax checkpoint.
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(head=dict(classifier=dict(type="TauNormalizedClassifier", tau=1.0)))
