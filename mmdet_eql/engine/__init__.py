"""From a config to a run: checks, hooks, checkpoints.

checkpoint            loads checkpoints without running code; registers that in mmengine
checkpoint_fit        whether a checkpoint fits a model and its classes
class_frequency_hook  hands f_j of the training set to the losses
class_list_hook       validation and testing follow the training set's classes; a runner's model
config_check          what is wrong with a config, before it is run
config_keys           options that nothing reads
finite_loss_hook      stops at a loss that is NaN, and names the images
gradient_file         the file of recorded gradients
gradient_record_hook  records the gradients of each category
launch                command-line options, the config and the runner
logger_hook           the log of a test of several processes
mixed_precision       training in bfloat16
num_classes           has num_classes, at the top of a config, count for all heads
partial_load_hook     begins from another model's weights but for some parts
resume                whole checkpoints, interruptions, resuming bit for bit
startup               the summary of a run that starts, what its terminal shows
stock_metrics         metrics of other packages: results as messages, order of labels
tail_statistics_hook  logs how many negatives a loss ignores
visualizer            draws masks as RLE
"""

from mmdet_eql.engine.checkpoint import convert_checkpoint, load_checkpoint_file
from mmdet_eql.engine.class_frequency_hook import ClassFrequencyHook
from mmdet_eql.engine.class_list_hook import ClassListHook
from mmdet_eql.engine.finite_loss_hook import FiniteLossHook
from mmdet_eql.engine.gradient_record_hook import GradientRecordHook
from mmdet_eql.engine.logger_hook import OneProcessLoggerHook
from mmdet_eql.engine.mixed_precision import BFloat16OptimWrapper
from mmdet_eql.engine.partial_load_hook import PartialLoadHook
from mmdet_eql.engine.resume.checkpoint_hook import AtomicCheckpointHook
from mmdet_eql.engine.resume.interruption_hook import InterruptionHook
from mmdet_eql.engine.resume.resume_randomness_hook import ResumeRandomnessHook
from mmdet_eql.engine.tail_statistics_hook import TailStatisticsHook
from mmdet_eql.engine.visualizer import RLEDetLocalVisualizer
