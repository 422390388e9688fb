# Logs and checkpoints often enough to watch and to interrupt a run of a few minutes.
_base_ = "./default_runtime.py"

default_hooks = dict(
    # Validation is logged at its iteration; by default it would be at epoch 0.
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=200),
)
log_processor = dict(by_epoch=False)
