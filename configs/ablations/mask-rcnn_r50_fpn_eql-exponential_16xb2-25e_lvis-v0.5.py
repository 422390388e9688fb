# T(f) = 1 - (a f)^n, with the parameters that the EQL paper found best.
_base_ = "../eql/mask-rcnn_r50_fpn_eql_16xb2-25e_lvis-v0.5.py"

tail = dict(type="ExponentialDecayTail", a=400, n=2)
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(lambda_=None, tail_weighting=tail))))
