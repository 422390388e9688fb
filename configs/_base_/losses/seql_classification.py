# Softmax equalization loss (EQL paper, arXiv 2003.05176) of a classifier of whole images.
loss_cls = dict(_delete_=True, type="SoftmaxEqualizationLoss", has_background=False)
