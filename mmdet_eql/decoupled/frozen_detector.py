"""A frozen two-stage detector up to its classifiers: the RoIs of an image and their features.

RoIs are those that the detector itself would train and test on: proposals of its RPN, assigned and
sampled by its ``train_cfg.rcnn`` in training, and refined by the stages before in a cascade. A
feature is what ``fc_cls`` of the stage's box head gets as input.

Glossary:
    N: number of RoIs of all images of a batch; n: of one of them.
    D: number of features of a RoI.
    x: feature maps of the neck.
"""

import os.path as osp
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.task_modules.samplers import OHEMSampler, SamplingResult, ScoreHLRSampler
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.decoupled.feature_cache import METAINFO, ImageFeatures
from mmdet_eql.heads.roi_head import semantic_features, stages_of
from mmdet_eql.utils.errors import UserError

_ROI_HEADS = (StandardRoIHead, CascadeRoIHead, HybridTaskCascadeRoIHead)


class FrozenDetector:
    """Gives the features of a detector's RoIs.

    Args:
        detector (nn.Module): A Faster, Mask or Cascade R-CNN or an HTC, with its weights. It is put
            into eval mode and loses its last layers: it can predict no more.
        dtype (str): ``"float16"`` or ``"float32"``, of the features.

    Attributes:
        stages (int): Number of stages, 1 without a cascade.
        dim (int): D.

    Raises:
        UserError: If the features of its RoIs depend on the classifier, or if it has none.
    """

    def __init__(self, detector: nn.Module, dtype: str = "float16") -> None:
        roi_head = getattr(detector, "roi_head", None)
        check_roi_head(roi_head, getattr(detector, "rpn_head", None))
        self.detector, self.roi_head = detector.eval(), roi_head
        self.dtype = getattr(torch, dtype)
        self._is_cascade = isinstance(roi_head, CascadeRoIHead)
        self._heads = stages_of(roi_head.bbox_head)
        self._assigners = stages_of(roi_head.bbox_assigner)
        self._samplers = stages_of(roi_head.bbox_sampler)
        self._train_cfgs = stages_of(roi_head.train_cfg)
        self.stages, self.dim = len(self._heads), self._heads[0].fc_cls.in_features
        # With nothing in the place of its last layers, a head returns what it feeds them.
        self._last_layers = [(head.fc_cls, head.fc_reg) for head in self._heads]
        for head in self._heads:
            head.fc_cls, head.fc_reg = nn.Identity(), nn.Identity()

    @torch.inference_mode()
    def train_features(
        self, inputs: Tensor, samples: Sequence[DetDataSample]
    ) -> list[ImageFeatures]:
        """Return the RoIs that the detector would train on, with labels.

        The draw of a sampler depends on the image and the stage alone.

        Args:
            inputs (Tensor): Preprocessed images.
            samples (Sequence[DetDataSample]): With ``gt_instances``.
        """
        x = self.detector.extract_feat(inputs)
        cfg = self.detector.train_cfg.get("rpn_proposal", self.detector.test_cfg.rpn)
        proposals = self._proposals(x, samples, cfg)
        gt, ignored, metas = unpack_gt_instances(samples)
        extra = semantic_features(self.roi_head, x)
        images = [ImageFeatures(_metainfo(sample)) for sample in samples]
        for stage, head in enumerate(self._heads):
            images_of_stage = zip(proposals, gt, ignored, metas, strict=True)
            sampled = [self._sample(stage, *image) for image in images_of_stage]
            rois = bbox2roi([result.priors for result in sampled])
            features = self._features(stage, x, rois, extra)
            targets = head.get_targets(sampled, self._train_cfgs[stage])
            sizes = [len(result.priors) for result in sampled]
            self._add(images, sizes, rois, features, targets[0])
            if stage + 1 < self.stages and len(rois):
                fc_cls, fc_reg = self._last_layers[stage]
                outputs = dict(rois=rois, cls_score=fc_cls(features), bbox_pred=fc_reg(features))
                outputs["bbox_targets"] = targets
                proposals = head.refine_bboxes(sampled, outputs, metas)
        return images

    @torch.inference_mode()
    def val_features(self, inputs: Tensor, samples: Sequence[DetDataSample]) -> list[ImageFeatures]:
        """Return the RoIs that the detector would test on; arguments as in
        :meth:`train_features`, of which no ground truth is used."""
        x = self.detector.extract_feat(inputs)
        proposals = self._proposals(x, samples, self.detector.test_cfg.rpn)
        boxes, sizes = [p.bboxes for p in proposals], [len(p) for p in proposals]
        extra = semantic_features(self.roi_head, x)
        images = [ImageFeatures(_metainfo(sample)) for sample in samples]
        for stage, head in enumerate(self._heads):
            rois = bbox2roi(boxes)
            features = self._features(stage, x, rois, extra)
            self._add(images, sizes, rois, features)
            if stage + 1 < self.stages:
                deltas = self._last_layers[stage][1](features).split(sizes)
                # Class-agnostic: there are no labels to choose a column by.
                boxes = [
                    head.regress_by_class(priors, None, delta, sample.metainfo)
                    for priors, delta, sample in zip(boxes, deltas, samples, strict=True)
                ]
        return images

    def _proposals(
        self, x: Sequence[Tensor], samples: Sequence[DetDataSample], cfg: Any
    ) -> list[InstanceData]:
        self.detector.rpn_head.test_cfg = cfg
        return self.detector.rpn_head.predict(x, samples, rescale=False)

    def _sample(
        self,
        stage: int,
        proposals: InstanceData,
        gt: InstanceData,
        ignored: InstanceData | None,
        meta: dict,
    ) -> SamplingResult:
        if "bboxes" in proposals:  # as in the first stage, or if no image had a RoI
            proposals.priors = proposals.pop("bboxes")
        assigned = self._assigners[stage].assign(proposals, gt, ignored)
        with torch.random.fork_rng(devices=[]):
            key = f"{meta['img_id']} {meta.get('flip', False)} {stage}"
            # torch.manual_seed seeds the GPU, too, which takes longer than the draw.
            torch.default_generator.manual_seed(zlib.crc32(key.encode()))
            return self._samplers[stage].sample(assigned, proposals, gt)

    def _features(
        self, stage: int, x: Sequence[Tensor], rois: Tensor, extra: dict[str, Tensor]
    ) -> Tensor:
        if not len(rois):
            return rois.new_zeros(0, self.dim)
        where = (stage, x, rois) if self._is_cascade else (x, rois)
        outputs = self.roi_head._bbox_forward(*where, **extra)
        features, of_regression = outputs["cls_score"], outputs["bbox_pred"]
        if features.data_ptr() != of_regression.data_ptr():
            raise UserError(
                f"model.roi_head.bbox_head.type: in {type(self._heads[stage]).__name__}, "
                "classifier and box regression have features of their own, of which a cache holds "
                "one; use a head that shares them, as Shared2FCBBoxHead."
            )
        return features

    def _add(
        self,
        images: Sequence[ImageFeatures],
        sizes: Sequence[int],
        rois: Tensor,
        features: Tensor,
        labels: Tensor | None = None,
    ) -> None:
        """Append a stage to each image."""
        columns = dict(features=features.to(self.dtype), rois=rois[:, 1:], labels=labels)
        for name, column in columns.items():
            if column is not None:
                parts = np.split(column.cpu().numpy(), np.cumsum(sizes)[:-1])
                for image, part in zip(images, parts, strict=True):
                    getattr(image, name).append(part)


def check_roi_head(roi_head: nn.Module | None, rpn_head: nn.Module | None) -> None:
    """Raise a UserError if the features of a detector cannot be computed beforehand."""
    known = {base.loss: base for base in _ROI_HEADS}
    base = known.get(getattr(type(roi_head), "loss", None))
    if rpn_head is None or base is None or type(roi_head)._bbox_forward != base._bbox_forward:
        names = ", ".join(base.__name__ for base in _ROI_HEADS)
        raise UserError(
            f"model.roi_head: features are cached of detectors with an RPN and one of {names}, not "
            f"of {type(roi_head).__name__}; give a Faster, Mask or Cascade R-CNN or an HTC."
        )
    if roi_head.train_cfg is None:
        raise UserError("model.train_cfg is missing; add that of the detector's training.")
    heads = stages_of(roi_head.bbox_head)
    for head in heads:
        last_layers = getattr(head, "fc_cls", None), getattr(head, "fc_reg", None)
        if not all(isinstance(layer, nn.Linear) for layer in last_layers):
            raise UserError(
                f"model.roi_head.bbox_head.type: {type(head).__name__} has no linear fc_cls and "
                "fc_reg; use one that has, as Shared2FCBBoxHead."
            )
    if not all(head.reg_class_agnostic for head in heads[:-1]):
        raise UserError(
            "model.roi_head.bbox_head.reg_class_agnostic is False in a cascade: the RoIs of a "
            "stage would depend on the classifier of the one before; train the detector with True."
        )
    for sampler in stages_of(roi_head.bbox_sampler):
        if not hasattr(sampler, "num"):
            raise UserError(
                f"model.train_cfg.rcnn.sampler: {type(sampler).__name__} has no 'num' of RoIs; use "
                "type='RandomSampler'."
            )
        parts = (getattr(sampler, name, sampler) for name in ("pos_sampler", "neg_sampler"))
        if any(isinstance(part, (OHEMSampler, ScoreHLRSampler)) for part in parts):
            raise UserError(
                "model.train_cfg.rcnn.sampler: samples by the loss of the classifier that is to be "
                "trained; use type='RandomSampler'."
            )
    for cfg in stages_of(roi_head.train_cfg):
        if cfg.pos_weight > 0 and cfg.pos_weight != 1:
            raise UserError(
                f"model.train_cfg.rcnn.pos_weight is {cfg.pos_weight}, and a cache holds no "
                "weights of RoIs; set it to -1."
            )


def _metainfo(sample: DetDataSample) -> dict[str, Any]:
    values = {key: sample.metainfo.get(key) for key in METAINFO}
    path = sample.metainfo.get("img_path")
    values["file_size"] = osp.getsize(path) if path and osp.isfile(path) else None
    return {key: np.asarray(v).tolist() if v is not None else None for key, v in values.items()}
