# One sigmoid per category: EQL without a tail.
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="EqualizationLoss", lambda_=0),
)
