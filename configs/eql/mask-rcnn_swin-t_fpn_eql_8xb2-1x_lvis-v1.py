# Swin-T (arXiv 2103.14030) with the optimizer and schedule of MMDetection's config of it.
_base_ = "./mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"

from mmengine.hub import get_config

stock = get_config("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py")
model = dict(
    backbone=dict(stock.model.backbone, _delete_=True),
    neck=dict(in_channels=stock.model.neck.in_channels),
)
optim_wrapper = dict(stock.optim_wrapper, _delete_=True)
param_scheduler = stock.param_scheduler
del stock
