# EQL (arXiv 2003.05176) for training sets of any size: its tail is a share of the labels instead of
# a frequency, as large as the paper's lambda makes it on LVIS v0.5.
classifier = dict(
    cls_predictor_cfg=dict(type="PriorLinear"),
    loss_cls=dict(
        type="EqualizationLoss", tail_weighting=dict(type="ThresholdTail", tail_ratio=0.09)
    ),
)
