# MMDetection's 1x for Open Images: 12 epochs, 64 images per step, a long warm-up.
_base_ = "./schedule_1x.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 64, by_epoch=False, begin=0, end=26000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=0.08), clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(base_batch_size=64)
