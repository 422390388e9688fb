_base_ = "./seql.py"

classifier = dict(loss_cls=dict(lambda_=2.2e-3))
