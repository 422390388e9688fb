# Focal loss on sigmoids (arXiv 1708.02002).
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

model = dict(
    head=dict(
        classifier=dict(type="PriorLinear"),
        loss_cls=dict(_delete_=True, type="SigmoidFocalLoss", gamma=2.0, alpha=None),
    )
)
