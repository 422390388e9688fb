_base_ = "./eql.py"

classifier = dict(loss_cls=dict(lambda_=2.2e-3))
