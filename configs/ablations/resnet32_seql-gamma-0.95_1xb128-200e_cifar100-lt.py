_base_ = [
    "../classification/resnet32_softmax_1xb128-200e_cifar100-lt.py",
    "../_base_/losses/seql_classification.py",
]

model = dict(head=dict(loss_cls=dict(_base_.pop("loss_cls"), lambda_=3e-3, gamma=0.95)))
train_dataloader = dict(dataset=dict(imbalance_factor=200))
