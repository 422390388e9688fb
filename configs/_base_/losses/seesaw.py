# Seesaw loss (arXiv 2008.10032), MMDetection's own; it asks for loss_cls.num_classes.
classifier = dict(
    cls_predictor_cfg=dict(type="NormedLinear", temperature=20),
    loss_cls=dict(type="SeesawLoss"),
)
