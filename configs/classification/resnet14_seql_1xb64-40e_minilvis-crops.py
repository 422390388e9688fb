# Softmax Equalization Loss (EQL paper, arXiv 2003.05176).
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

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
