# Class-balanced loss (arXiv 1901.05555) over the softmax.
classifier = dict(loss_cls=dict(type="ClassBalancedSoftmaxLoss"))
