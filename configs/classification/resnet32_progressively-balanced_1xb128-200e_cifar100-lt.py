# Softmax with progressively balanced sampling (arXiv 1910.09217, section 4.1).
_base_ = "./resnet32_softmax_1xb128-200e_cifar100-lt.py"

train_dataloader = dict(
    sampler=dict(
        _delete_=True,
        type="MixedSampler",
        samplers=[
            dict(type="RepeatFactorSampler", repeat_threshold=0),  # each image once
            dict(type="CategoryAwareSampler"),
        ],
        weights=(1, 0),
        final_weights=(0, 1),
        num_epochs=200,
    )
)
