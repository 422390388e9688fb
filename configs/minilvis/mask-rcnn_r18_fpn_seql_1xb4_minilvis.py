# Softmax equalization loss (EQL paper, arXiv 2003.05176), with the paper's gamma.
_base_ = "./mask-rcnn_r18_fpn_1xb4_minilvis.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(loss_cls=dict(type="SoftmaxEqualizationLoss", lambda_=2.2e-3, gamma=0.9))
    )
)
