# MMDetection's 2x: 24 epochs, a tenth of the rate at 16 and 22, 16 images per step; one validation.
_base_ = "mmdet::_base_/schedules/schedule_2x.py"

train_cfg = dict(val_interval=24)
