# Softmax with class-aware sampling.
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

train_dataloader = dict(sampler=dict(_delete_=True, type="CategoryAwareSampler"))
