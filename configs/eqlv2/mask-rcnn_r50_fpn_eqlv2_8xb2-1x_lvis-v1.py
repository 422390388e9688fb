# EQL v2 (arXiv 2012.08548).
_base_ = "../baselines/mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="EqualizationLossV2"),
        )
    )
)
