_base_ = "../mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"

model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=0.8e-3))))
