# Logs and checkpoints often enough to watch and to interrupt a run of a few minutes.
_base_ = "./default_runtime.py"

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=200),
)
log_processor = dict(by_epoch=False)
