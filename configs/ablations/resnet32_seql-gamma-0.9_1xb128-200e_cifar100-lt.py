_base_ = "../classification/resnet32_softmax_1xb128-200e_cifar100-lt.py"

seql = dict(type="SoftmaxEqualizationLoss", lambda_=3e-3, gamma=0.9, has_background=False)
model = dict(head=dict(loss_cls=dict(_delete_=True, **seql)))
train_dataloader = dict(dataset=dict(imbalance_factor=200))
