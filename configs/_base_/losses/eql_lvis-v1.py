# The lambda that EQL v2's authors trained EQL with on LVIS v1.
_base_ = "./eql.py"

classifier = dict(loss_cls=dict(lambda_=1.1e-3))
