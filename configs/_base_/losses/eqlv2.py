# EQL v2 (arXiv 2012.08548).
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="EqualizationLossV2"),
)
