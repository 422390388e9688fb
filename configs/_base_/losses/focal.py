# Focal loss (arXiv 1708.02002) on one sigmoid per category.
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="SigmoidFocalLoss"),
)
