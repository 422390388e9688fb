# The EQL paper's: 25 epochs, a tenth of the rate at 16 and 22, 32 images per step. LVIS's
# validation takes long, so it comes once, after the last epoch.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=25, val_interval=25)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=25, by_epoch=True, milestones=[16, 22], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.04, momentum=0.9, weight_decay=0.0001),
)
# For other numbers of GPUs: --auto-scale-lr.
auto_scale_lr = dict(enable=False, base_batch_size=32)
