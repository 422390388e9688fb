# MMDetection's 1x: 12 epochs, a tenth of the rate at 8 and 11, 16 images per step. LVIS's
# validation takes long, so it comes once, after the last epoch.
_base_ = "mmdet::_base_/schedules/schedule_1x.py"

train_cfg = dict(val_interval=12)
