# Logit adjustment after training (arXiv 2007.07314).
classifier = dict(loss_cls=dict(type="LogitAdjustedSoftmaxLoss", tau=1.0))
