"""mmdet's visualiser, for masks as RLE."""

import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from mmdet_eql.utils.rle import to_bitmaps


@VISUALIZERS.register_module()
class RLEDetLocalVisualizer(DetLocalVisualizer):
    """mmdet's ``DetLocalVisualizer``, which also draws the masks of heads with ``masks_as_rle``.

    Masks are decoded after the score threshold, so that only those that are drawn become bitmaps.
    """

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: InstanceData,
        classes: list[str] | None,
        palette: list[tuple] | None,
    ) -> np.ndarray:
        masks = instances.get("masks")
        if isinstance(masks, list):
            instances = instances.new()
            instances.masks = torch.from_numpy(to_bitmaps(masks, image.shape[:2]))
        return super()._draw_instances(image, instances, classes, palette)
