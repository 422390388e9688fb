# Tau-normalisation (arXiv 1910.09217): no training; test it with a softmax checkpoint.
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

model = dict(head=dict(classifier=dict(type="TauNormalizedClassifier", tau=1.0)))
