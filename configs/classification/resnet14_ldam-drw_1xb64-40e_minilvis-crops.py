# LDAM with deferred re-weighting (arXiv 1906.07413).
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

scale = 30.0

model = dict(
    head=dict(
        classifier=dict(type="CosineClassifier", scale=scale),
        loss_cls=dict(_delete_=True, type="LDAMLoss", scale=scale, reweight_from=32),
    )
)
