# Learnable weight scaling (LWS, arXiv 1910.09217): --cfg-options load_from=SOFTMAX_CHECKPOINT.
_base_ = "./resnet10_softmax_8xb64-90e_imagenet-lt.py"

model = dict(freeze_backbone=True, head=dict(classifier=dict(type="ScaledClassifier")))

max_epochs = 10

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min=0,
        convert_to_iter_based=True,
    )
]
train_dataloader = dict(sampler=dict(_delete_=True, type="CategoryAwareSampler"))
custom_hooks = [*_base_.custom_hooks, dict(type="SecondStageHook", reinitialize=False)]
