# Focal loss on sigmoids (arXiv 1708.02002).
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(
    head=dict(
        classifier=dict(type="PriorLinear"),
        loss_cls=dict(_delete_=True, type="SigmoidFocalLoss", gamma=2.0, alpha=None),
    )
)
