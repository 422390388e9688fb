# Focal loss (arXiv 1708.02002) on one sigmoid per category.
_base_ = "./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="PriorLinear"),
            loss_cls=dict(_delete_=True, type="SigmoidFocalLoss"),
        )
    )
)
