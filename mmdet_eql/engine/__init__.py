"""What happens around the training loop: frequencies handed over, checkpoints loaded safely."""

from mmdet_eql.engine.checkpoint import convert_checkpoint, load_checkpoint_file
from mmdet_eql.engine.class_frequency_hook import ClassFrequencyHook
from mmdet_eql.engine.resume_randomness_hook import ResumeRandomnessHook
from mmdet_eql.engine.resume_sampler_hook import ResumeSamplerHook

__all__ = [
    "ClassFrequencyHook",
    "ResumeRandomnessHook",
    "ResumeSamplerHook",
    "convert_checkpoint",
    "load_checkpoint_file",
]
