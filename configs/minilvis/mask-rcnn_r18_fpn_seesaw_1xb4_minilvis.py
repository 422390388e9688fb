# Seesaw loss (arXiv 2008.10032), MMDetection's own.
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            # Of temperature 20; mmdet 3.3 has a spelling of its own for that argument.
            cls_predictor_cfg=dict(type="NormedLinear"),
            loss_cls=dict(type="SeesawLoss", num_classes=_base_.num_classes),
        )
    )
)
