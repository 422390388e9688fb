# As in the code of Kang et al. (arXiv 1910.09217): a cosine, and 0.2 for 512 images.
max_epochs = 90

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=10)
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
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.2, momentum=0.9, weight_decay=5e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=512)
