# Class-balanced softmax (arXiv 1901.05555).
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(
    head=dict(
        loss_cls=dict(
            _delete_=True, type="ClassBalancedSoftmaxLoss", beta=0.9999, has_background=False
        )
    )
)
