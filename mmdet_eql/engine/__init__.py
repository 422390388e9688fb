"""What happens around the training loop: frequencies handed over, checkpoints loaded safely."""

from mmdet_eql.engine.checkpoint import convert_checkpoint, load_checkpoint_file
from mmdet_eql.engine.class_frequency_hook import ClassFrequencyHook

__all__ = ["ClassFrequencyHook", "convert_checkpoint", "load_checkpoint_file"]
