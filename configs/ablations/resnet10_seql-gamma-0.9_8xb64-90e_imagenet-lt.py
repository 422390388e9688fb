_base_ = [
    "../classification/resnet10_softmax_8xb64-90e_imagenet-lt.py",
    "../_base_/losses/seql_classification.py",
]

model = dict(head=dict(loss_cls=dict(_base_.pop("loss_cls"), lambda_=4.3e-4, gamma=0.9)))
