# Seesaw loss (arXiv 2008.10032), MMDetection's own; it asks for loss_cls.num_classes.
classifier = dict(
    # Of temperature 20; mmdet 3.3 has a spelling of its own for that argument.
    cls_predictor_cfg=dict(type="NormedLinear"),
    loss_cls=dict(type="SeesawLoss"),
)
