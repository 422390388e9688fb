# Softmax on a cosine classifier.
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(head=dict(classifier=dict(type="CosineClassifier", scale=16.0)))
