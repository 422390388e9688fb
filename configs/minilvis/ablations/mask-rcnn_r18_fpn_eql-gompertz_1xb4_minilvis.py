# T(f) = 1 - a exp(-b exp(-c f)), with the parameters that the EQL paper found best.
_base_ = "../mask-rcnn_r18_fpn_eql_1xb4_minilvis.py"

tail = dict(type="GompertzDecayTail", a=1, b=80, c=3000)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=None, tail_weighting=tail))))
