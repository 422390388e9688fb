# Softmax Equalization Loss (EQL paper, arXiv 2003.05176).
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

model = dict(
    head=dict(
        loss_cls=dict(
            _delete_=True,
            type="SoftmaxEqualizationLoss",
            lambda_count=20,
            gamma=0.9,
            has_background=False,
        )
    )
)
