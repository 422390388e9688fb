# EQL v2 (arXiv 2012.08548).
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLossV2"),
        )
    )
)
