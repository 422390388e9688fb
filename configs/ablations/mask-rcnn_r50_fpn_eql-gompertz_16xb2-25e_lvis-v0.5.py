# T(f) = 1 - a exp(-b exp(-c f)), with the parameters that the EQL paper found best.
_base_ = "../eql/mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

tail = dict(type="GompertzDecayTail", a=1, b=80, c=3000)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=None, tail_weighting=tail))))
