# Class-balanced softmax (arXiv 1901.05555).
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

model = dict(
    head=dict(
        loss_cls=dict(
            _delete_=True, type="ClassBalancedSoftmaxLoss", beta=0.9999, has_background=False
        )
    )
)
