# Class-balanced softmax (arXiv 1901.05555).
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

model = dict(
    head=dict(
        loss_cls=dict(
            _delete_=True,
            type="ClassBalancedSoftmaxLoss",
            beta=0.9999,
            has_background=False,
        )
    )
)
