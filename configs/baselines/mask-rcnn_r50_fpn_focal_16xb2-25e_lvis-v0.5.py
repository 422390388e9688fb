# Focal loss (arXiv 1708.02002) on one sigmoid per category.
_base_ = "./mask-rcnn_r50_fpn_16xb2-25e_lvis-v0.5.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(type="SigmoidFocalLoss"),
        )
    )
)
