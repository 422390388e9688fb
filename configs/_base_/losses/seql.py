# Softmax equalization loss (EQL paper, arXiv 2003.05176), with the paper's gamma.
classifier = dict(loss_cls=dict(type="SoftmaxEqualizationLoss", lambda_=1.76e-3, gamma=0.9))
