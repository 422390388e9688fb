# Softmax with progressively balanced sampling (arXiv 1910.09217, section 4.1).
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

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
        num_epochs=40,
    )
)
