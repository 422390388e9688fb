# Balanced softmax (arXiv 2007.10740); tau is that of the logit-adjusted loss (2007.07314).
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

model = dict(head=dict(loss_cls=dict(_delete_=True, type="BalancedSoftmaxLoss", tau=1.0)))
