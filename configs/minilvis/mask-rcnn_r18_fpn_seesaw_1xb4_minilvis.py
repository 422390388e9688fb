# Seesaw loss (arXiv 2008.10032), MMDetection's own.
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type="NormedLinear", temperature=20),
            loss_cls=dict(_delete_=True, type="SeesawLoss", num_classes={{_base_.num_classes}}),
        )
    )
)
