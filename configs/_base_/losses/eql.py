# EQL (arXiv 2003.05176), with the paper's lambda for LVIS v0.5. Tail ratio: 9.09 %.
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="EqualizationLoss", lambda_=1.76e-3),
)
