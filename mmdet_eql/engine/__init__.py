"""What happens around the training loop: frequencies handed over, checkpoints written whole and
loaded safely, runs resumed where they stopped, training in bfloat16, results drawn."""

from mmdet_eql.engine.checkpoint import convert_checkpoint, load_checkpoint_file
from mmdet_eql.engine.class_frequency_hook import ClassFrequencyHook
from mmdet_eql.engine.finite_loss_hook import FiniteLossHook
from mmdet_eql.engine.gradient_record_hook import GradientRecordHook
from mmdet_eql.engine.mixed_precision import BFloat16OptimWrapper
from mmdet_eql.engine.partial_load_hook import PartialLoadHook
from mmdet_eql.engine.resume.checkpoint_hook import AtomicCheckpointHook
from mmdet_eql.engine.resume.interruption_hook import InterruptionHook
from mmdet_eql.engine.resume.resume_randomness_hook import ResumeRandomnessHook
from mmdet_eql.engine.resume.resume_sampler_hook import ResumeSamplerHook
from mmdet_eql.engine.tail_statistics_hook import TailStatisticsHook
from mmdet_eql.engine.visualizer import RLEDetLocalVisualizer

__all__ = [
    "AtomicCheckpointHook",
    "BFloat16OptimWrapper",
    "ClassFrequencyHook",
    "FiniteLossHook",
    "GradientRecordHook",
    "InterruptionHook",
    "PartialLoadHook",
    "RLEDetLocalVisualizer",
    "ResumeRandomnessHook",
    "ResumeSamplerHook",
    "TailStatisticsHook",
    "convert_checkpoint",
    "load_checkpoint_file",
]
