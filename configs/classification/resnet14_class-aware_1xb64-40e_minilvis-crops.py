# Softmax with class-aware sampling.
_base_ = "./resnet14_softmax_1xb64-40e_minilvis-crops.py"

train_dataloader = dict(sampler=dict(_delete_=True, type="CategoryAwareSampler"))
