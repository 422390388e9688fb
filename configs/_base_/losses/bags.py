# Balanced group softmax (arXiv 2006.10408).
classifier = dict(loss_cls=dict(type="BalancedGroupSoftmaxLoss"))
