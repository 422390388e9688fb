# Seesaw loss (arXiv 2008.10032), MMDetection's own.
_base_ = "./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            # Of temperature 20; mmdet 3.3 has a spelling of its own for that argument.
            cls_predictor_cfg=dict(type="NormedLinear"),
            loss_cls=dict(type="SeesawLoss", num_classes=_base_.num_classes),
        )
    )
)
