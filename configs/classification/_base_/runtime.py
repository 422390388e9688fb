_base_ = "../../_base_/default_runtime.py"

custom_imports = dict(imports=["mmdet_eql.classification"])
custom_hooks = [
    *_base_.custom_hooks,
    # From the model to the accuracy of many, medium and few shots.
    dict(type="TrainingCountsHook"),
    # Tells losses that change their weights which epoch it is.
    dict(type="EpochHook"),
]
default_hooks = dict(checkpoint=dict(interval=10))

val_evaluator = dict(type="LongTailAccuracy")
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
