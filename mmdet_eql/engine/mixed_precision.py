"""Training in bfloat16, on GPUs and on the CPU.

Its 8 significant bits are enough for the layers, but not for boxes (beyond 256 pixels only even
coordinates are left) nor for MMCV's NMS and RoIAlign, which lack it. Proposals and RoI features are
computed in float32, as are the losses of the package.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """An ``OptimWrapper`` whose forward passes run under autocast to bfloat16.

    Weights, gradients, the optimizer's state and boxes stay float32. The losses are not scaled:
    bfloat16 has the range of float32. Arguments are those of ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """See the base class."""
        device = torch.device(get_device()).type
        with (
            super().optim_context(model),
            full_precision_boxes(model),
            torch.autocast(device, dtype=torch.bfloat16),
        ):
            yield


@contextmanager
def full_precision_boxes(model: nn.Module) -> Iterator[None]:
    """Have a detector's dense heads (RPN) return float32, and its RoI extractors read it."""
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, BaseDenseHead):
                hook = module.register_forward_hook(lambda _, args, output: to_float(output))
                hooks.enter_context(hook)
            elif isinstance(module, BaseRoIExtractor):
                hook = module.register_forward_pre_hook(lambda _, args: to_float(args))
                hooks.enter_context(hook)
        yield


def to_float(value: Any) -> Any:
    """Cast the bfloat16 tensors in tuples and lists to float32; all else stays as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, (list, tuple)):
        return type(value)(map(to_float, value))
    return value
