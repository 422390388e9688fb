# Class-balanced loss (arXiv 1901.05555) over the softmax.
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type="ClassBalancedSoftmaxLoss"),
        )
    )
)
