# As in the code of LDAM (Cao et al., arXiv 1906.07413).
max_epochs = 200

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.2, by_epoch=True, begin=0, end=5),
    dict(type="MultiStepLR", by_epoch=True, milestones=[160, 180], gamma=0.01),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=2e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
