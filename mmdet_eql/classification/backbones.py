"""Residual networks of the long-tail literature that MMDetection lacks.

ResNet-50 is MMDetection's; set ``norm_eval=False`` to train it from scratch.
"""

import torch.nn.functional as F
from mmdet.models.backbones.resnet import BasicBlock, ResNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class ResNet10(ResNet):
    """ResNet-10: one basic block in each of the four stages (Liu et al., arXiv 1904.05160).

    Arguments are those of mmdet's ``ResNet``, without ``depth``.
    """

    def __init__(self, **kwargs) -> None:
        self.arch_settings = {10: (BasicBlock, (1, 1, 1, 1))}
        super().__init__(depth=10, **kwargs)


@MODELS.register_module()
class CIFARResNet(ResNet):
    """ResNet for images of 32 pixels (He et al., arXiv 1512.03385, section 4.2).

    A 3x3 convolution, then three stages of (depth - 2) / 6 basic blocks with 16, 32 and 64
    channels, whose first shortcut has no parameters: every second pixel, and zeros for the new
    channels. ResNet-32 has 0.46 million parameters.

    Args:
        depth (int): 6 n + 2: 8, 14, 20, 32, 44, ...
        base_channels (int): Channels of the first stage.
        stem_stride (int): Stride of the first convolution; 2 halves all resolutions.

    Raises:
        UserError: If the depth is not 6 n + 2.
    """

    def __init__(self, depth: int = 32, base_channels: int = 16, stem_stride: int = 1) -> None:
        if depth < 8 or depth % 6 != 2:
            raise UserError(
                f"model.backbone.depth is {depth}; a CIFARResNet has 6 n + 2 layers: 8, 14, 20, 32."
            )
        self.arch_settings = {depth: (BasicBlock, ((depth - 2) // 6,) * 3)}
        self.stem_stride = stem_stride
        super().__init__(
            depth=depth,
            base_channels=base_channels,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            norm_eval=False,
            zero_init_residual=False,
        )
        self.layer2[0].downsample = _PadChannels(base_channels)
        self.layer3[0].downsample = _PadChannels(2 * base_channels)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = nn.Conv2d(
            in_channels, stem_channels, 3, stride=self.stem_stride, padding=1, bias=False
        )
        self.maxpool = nn.Identity()


class _PadChannels(nn.Module):
    """Take every second pixel, and double the channels by zeros on both sides."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        before = num_channels // 2
        self.padding = (0, 0, 0, 0, before, num_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)
