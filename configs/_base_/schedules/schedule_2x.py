# MMDetection's 2x: 24 epochs, a tenth of the rate at 16 and 22, 16 images per step. An epoch of
# warm-up and clipped gradients are EFL's. LVIS's validation comes once, after the last epoch.
_base_ = "mmdet::_base_/schedules/schedule_2x.py"

train_cfg = dict(val_interval=24)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.1,
        begin=0,
        end=1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type="MultiStepLR", begin=0, end=24, by_epoch=True, milestones=[16, 22], gamma=0.1),
]
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
