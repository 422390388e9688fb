_base_ = "./seql.py"

classifier = dict(loss_cls=dict(lambda_=1.1e-3))
