"""Test-time augmentation of boxes and masks.

MMDetection's ``DetTTAModel`` merges boxes. Here the masks of the merged boxes are predicted in each
view and averaged, cell by cell, before they are pasted into the image once.
"""

from typing import Any

import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.heads.tta_view import View, refuse_unsupported


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Averages a two-stage detector over resized and flipped views of each image.

    Boxes of all views go through one class-wise NMS, as in ``DetTTAModel``; scores stay those of
    the view that a box comes from. Whatever the classifier is, its scores enter as in plain
    testing. Then every view's mask head sees the boxes that are left, and the masks of all views
    (and stages of a cascade) are averaged.

    Works for Faster and Mask R-CNN, Cascade (Mask) R-CNN and HTC, with class-agnostic and
    class-specific masks and with the selective mask heads. The feature maps of all views are in
    memory at the same time.

    Args:
        module (dict | nn.Module): The detector.
        tta_cfg (dict, optional): ``nms`` and ``max_per_img`` of the merged boxes. By default those
            of the detector's ``test_cfg.rcnn``.
        **kwargs: Those of ``DetTTAModel``.

    Raises:
        UserError: If the detector is of another kind.

    Example:
        >>> tta_model = dict(type="InstanceTTAModel")  # in a config; then tools/test.py --tta
    """

    def __init__(
        self, module: dict | nn.Module, tta_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(module=module, tta_cfg=tta_cfg, **kwargs)
        refuse_unsupported(self.module)
        if tta_cfg is None:
            self.tta_cfg = self.module.test_cfg.rcnn

    def test_step(self, data: dict) -> SampleList:
        """Predict a batch of B images from V views.

        Args:
            data (dict): ``inputs`` and ``data_samples``, each a list of V lists of B.

        Returns:
            SampleList: B data samples with ``pred_instances`` in pixels of the original images:
            ``bboxes``, ``scores`` and ``labels``, and with a mask head ``masks`` as it gives them.
        """
        num_views = len(data["inputs"])
        views = [
            View(self.module, {key: value[index] for key, value in data.items()})
            for index in range(num_views)
        ]
        boxes_of_views = [view.predict_boxes() for view in views]
        samples = self.merge_preds(list(zip(*boxes_of_views, strict=True)))
        if self.module.roi_head.with_mask:
            self._add_masks(samples, views)
        return samples

    def _add_masks(self, samples: SampleList, views: list[View]) -> None:
        instances = [sample.pred_instances for sample in samples]
        bboxes = [item.bboxes for item in instances]
        labels = torch.cat([item.labels for item in instances])
        if len(labels):
            masks = sum(view.predict_masks(bboxes, labels) for view in views) / len(views)
        else:
            masks = bboxes[0].new_zeros(0, 1, 1, 1)
        pasted = self._paste(masks.split([len(boxes) for boxes in bboxes]), bboxes, samples)
        for item, with_masks in zip(instances, pasted, strict=True):
            item.masks = with_masks.masks

    def _paste(
        self, masks: tuple[Tensor, ...], bboxes: list[Tensor], samples: SampleList
    ) -> list[InstanceData]:
        """Have the mask head paste masks, each of shape (n, 1, h, w), into the original images."""
        roi_head = self.module.roi_head
        mask_head = roi_head.mask_head
        if isinstance(mask_head, nn.ModuleList):
            mask_head = mask_head[-1]
        # There is one mask per box left: whatever its label, it is in channel 0.
        results = [
            InstanceData(bboxes=boxes, labels=boxes.new_zeros(len(boxes), dtype=torch.int64))
            for boxes in bboxes
        ]
        metas = [dict(ori_shape=sample.ori_shape, scale_factor=(1.0, 1.0)) for sample in samples]
        return mask_head.predict_by_feat(
            mask_preds=masks,
            results_list=results,
            batch_img_metas=metas,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
            activate_map=True,  # they are probabilities
        )
