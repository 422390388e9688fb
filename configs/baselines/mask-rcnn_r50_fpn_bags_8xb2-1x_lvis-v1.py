# Balanced group softmax (arXiv 2006.10408).
_base_ = "./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type="BalancedGroupSoftmaxLoss"))))
