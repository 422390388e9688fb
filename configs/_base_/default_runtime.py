_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(imports=["mmdet_eql"], allow_failed_imports=False)
custom_hooks = [
    # Hands the class frequencies of the training set to the losses that need them.
    dict(type="ClassFrequencyHook"),
    # Lets a resumed run draw what an unbroken one would have drawn: images, flips, proposals.
    dict(type="ResumeRandomnessHook"),
    # Saves when Slurm preempts the job, and does validations again that were cut short.
    dict(type="InterruptionHook"),
    # Stops at a loss that is NaN, before the weights are.
    dict(type="FiniteLossHook"),
    # Says what the data are, and what of them is dropped, before training.
    dict(type="DataReportHook"),
]

# Writes checkpoints whole or not at all.
default_hooks = dict(checkpoint=dict(type="AtomicCheckpointHook", max_keep_ckpts=3))

# Logs as text, JSON and TensorBoard's files: `tensorboard --logdir work_dirs` shows the curves.
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)
