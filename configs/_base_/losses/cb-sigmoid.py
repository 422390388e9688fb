# Class-balanced loss (arXiv 1901.05555) over sigmoids.
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="ClassBalancedSigmoidLoss"),
)
