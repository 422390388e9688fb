"""RoIAlign on the CPU as two small matrix products for each RoI.

A value of RoIAlign is the mean over a grid of points in its bin, each interpolated between four
cells. Where the points lie along y does not depend on x, so that the whole is separable,

    output (P, P, D) = rows (P, h) . crop (h, w, D) . columns (P, w)

with weights that hold interpolation and mean; mmcv goes through all points of every channel.

Glossary:
    N, D: number of RoIs and of channels.
    H, W: height and width of the feature map.
    h, w: height and width in cells of what a RoI reads.
    P: height or width of the output in bins.
"""

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


class SeparableRoIAlign(RoIAlign):
    """mmcv's ``RoIAlign``, several times faster on the CPU where no gradients are asked for.

    The features are mmcv's up to rounding. With gradients, on a GPU, for other types than float32
    and for maximum pooling they are computed by mmcv.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """As mmcv's: from feature maps (B, D, H, W) and RoIs (N, 5) to features (N, D, P, P)."""
        if not self._is_separable(input, rois):
            return super().forward(input, rois)
        height, width = self.output_size
        rows = self._weights(rois[:, 2], rois[:, 4], height, input.size(2))
        columns = self._weights(rois[:, 1], rois[:, 3], width, input.size(3))
        maps = input.permute(0, 2, 3, 1).contiguous()
        output = maps.new_empty(len(rois), height, width, input.size(1))
        images = rois[:, 0].long().tolist()
        for result, image, (top, down), (left, across) in zip(
            output, images, rows, columns, strict=True
        ):
            crop = maps[image, top : top + down.size(1), left : left + across.size(1)]
            pooled = torch.mm(down, crop.flatten(start_dim=1)).view(height, *crop.shape[1:])
            torch.matmul(across, pooled, out=result)
        return output.permute(0, 3, 1, 2)

    def _is_separable(self, input: Tensor, rois: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and input.device.type == rois.device.type == "cpu"
            and input.dtype == rois.dtype == torch.float32
            and self.pool_mode == "avg"
            and not self.use_torchvision
            # mmcv refuses others, and numbers that are not finite are left to it, too.
            and len(rois) > 0
            and bool((rois[:, 1:3] <= rois[:, 3:5]).all() and rois.isfinite().all())
        )

    def _weights(
        self, low: Tensor, high: Tensor, bins: int, cells: int
    ) -> list[tuple[int, Tensor]]:
        """Along one axis, how much each cell counts in each bin.

        RoIs begin at ``low`` and end at ``high`` in pixels of the image, shape (N,). Returns for
        each the first cell that it reads, and the weights of the cells from there on, shape (P, h)
        or (P, w).
        """
        # The arithmetic of mmcv, for the same rounding. Shapes are (N, bins, points of a bin).
        offset = 0.5 if self.aligned else 0.0
        low = (low * self.spatial_scale - offset)[:, None, None]
        size = (high * self.spatial_scale - offset)[:, None, None] - low
        if not self.aligned:
            size = size.clamp(min=1)
        bin_size = size / bins
        number = bin_size.ceil()
        if self.sampling_ratio > 0:
            number = torch.full_like(number, self.sampling_ratio)
        point = torch.arange(max(int(number.max()), 1), dtype=torch.float32)
        counts = point < number
        number = number.clamp(min=1)
        point = point.minimum(number - 1)
        bin_index = torch.arange(bins, dtype=torch.float32)[:, None]
        position = low + bin_index * bin_size + (point + 0.5) * bin_size / number
        weight = (counts & (position >= -1) & (position <= cells)) / number

        position = position.clamp(0, cells - 1)
        cell = position.long()
        share = position - cell
        following = (cell + 1).clamp(max=cells - 1)
        first = cell.amin(dim=(1, 2))
        length = following.amax(dim=(1, 2)) - first + 1
        table = low.new_zeros(len(low), bins, int(length.max()))
        for index, part in ((cell, 1 - share), (following, share)):
            index, part = (index - first[:, None, None]).expand_as(weight), weight * part
            table.scatter_add_(2, index, part)
        return [
            (start, weights[:, :stop])
            for start, stop, weights in zip(first.tolist(), length.tolist(), table, strict=True)
        ]


@MODELS.register_module()
class SeparableRoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` with :class:`SeparableRoIAlign`; a UserError if ``roi_layer``
    is not of type 'RoIAlign'."""

    def build_roi_layers(self, layer_cfg: ConfigDict, featmap_strides: list[int]) -> nn.ModuleList:
        """As ``BaseRoIExtractor.build_roi_layers``."""
        if layer_cfg["type"] != "RoIAlign":
            raise UserError(
                f"SeparableRoIExtractor: roi_layer.type is {layer_cfg['type']!r}; use 'RoIAlign', "
                "or SingleRoIExtractor."
            )
        return super().build_roi_layers({**layer_cfg, "type": SeparableRoIAlign}, featmap_strides)
