_base_ = [
    "../../classification/resnet14_softmax_1xb64-40e_minilvis-crops.py",
    "../../_base_/losses/seql_classification.py",
]

model = dict(head=dict(loss_cls=dict(_base_.pop("loss_cls"), lambda_count=20, gamma=0.75)))
