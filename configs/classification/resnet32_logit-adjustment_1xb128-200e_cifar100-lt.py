# Logit adjustment after training (arXiv 2007.07314): trains as softmax, and takes its checkpoints.
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(
    head=dict(
        loss_cls=dict(_delete_=True, type="LogitAdjustedSoftmaxLoss", tau=1.0, has_background=False)
    )
)
