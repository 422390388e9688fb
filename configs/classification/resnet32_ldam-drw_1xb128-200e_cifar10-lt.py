# LDAM with deferred re-weighting (arXiv 1906.07413).
_base_ = "./resnet32_softmax_1xb128-200e_cifar10-lt.py"

scale = 30.0

model = dict(
    head=dict(
        classifier=dict(type="CosineClassifier", scale=scale),
        loss_cls=dict(_delete_=True, type="LDAMLoss", scale=scale, reweight_from=160),
    )
)
