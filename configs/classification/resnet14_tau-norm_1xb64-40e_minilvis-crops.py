# Tau-normalisation (arXiv 1910.09217): no training; test it with a softmax checkpoint.
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

model = dict(head=dict(classifier=dict(type="TauNormalizedClassifier", tau=1.0)))
