_base_ = "./atss_r18_fpn_focal_1xb4_minilvis.py"

model = dict(bbox_head=dict(loss_cls=dict(type="EqualizedFocalLoss")))
