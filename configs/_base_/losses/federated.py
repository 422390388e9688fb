# Federated loss of detectron2's LVIS baselines (arXiv 2103.07461).
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(type="FederatedLoss"),
)
