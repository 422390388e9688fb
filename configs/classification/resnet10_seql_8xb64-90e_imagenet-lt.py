# Softmax Equalization Loss (EQL paper, arXiv 2003.05176).
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

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
