# Logit adjustment after training (arXiv 2007.07314).
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type="LogitAdjustedSoftmaxLoss", tau=1.0),
        )
    )
)
