# Balanced group softmax (arXiv 2006.10408).
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type="BalancedGroupSoftmaxLoss"),
        )
    )
)
