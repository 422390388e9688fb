_base_ = "../classification/resnet10_softmax_8xb64-90e_imagenet-lt.py"

seql = dict(type="SoftmaxEqualizationLoss", lambda_=4.3e-4, gamma=0.5, has_background=False)
model = dict(head=dict(loss_cls=dict(_delete_=True, **seql)))
