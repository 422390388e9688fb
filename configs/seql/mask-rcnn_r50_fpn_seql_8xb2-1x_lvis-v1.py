# Softmax equalization loss (EQL paper, arXiv 2003.05176), with the paper's gamma.
_base_ = "../baselines/mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(
    roi_head=dict(
        bbox_head=dict(loss_cls=dict(type="SoftmaxEqualizationLoss", lambda_=1.1e-3, gamma=0.9))
    )
)
