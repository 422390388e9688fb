# Logit adjustment after training (arXiv 2007.07314).
_base_ = "./mask-rcnn_r50_fpn_8xb2-1x_lvis-v1.py"

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type="LogitAdjustedSoftmaxLoss", tau=1.0))))
