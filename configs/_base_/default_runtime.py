_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["mmdet_eql"], allow_failed_imports=False)
# Hands the class frequencies of the training set to the losses that need them.
custom_hooks = [dict(type="ClassFrequencyHook")]

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
