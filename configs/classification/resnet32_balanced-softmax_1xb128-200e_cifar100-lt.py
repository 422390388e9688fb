# Balanced softmax (arXiv 2007.10740); tau is that of the logit-adjusted loss (2007.07314).
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(head=dict(loss_cls=dict(_delete_=True, type="BalancedSoftmaxLoss", tau=1.0)))
