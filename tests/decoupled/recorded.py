"""A training of MMDetection in which all but the classifier is frozen, and the features it saw."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from mmdet_eql.decoupled.feature_cache import (
    CacheDescription,
    ImageFeatures,
    SplitDescription,
    begin_cache,
    write_shard,
)
from mmdet_eql.heads.roi_head import stages_of
from tests.heads.test_detectors import batch_of, build

LR, IMAGES, BATCH, VAL_IMAGES = 0.5, 6, 2, 2


class Recorder:
    """Notes what the classifiers of a detector get, and the RoIs, of the last forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.heads = stages_of(model.roi_head.bbox_head)
        self.features: dict[int, torch.Tensor] = {}
        self.rois: dict[int, torch.Tensor] = {}
        self.labels: dict[int, torch.Tensor] = {}
        for stage, head in enumerate(self.heads):
            head.fc_cls.register_forward_pre_hook(self._see_features(stage))
            head.loss = self._see_labels(stage, head.loss)
        self.heads[-1].predict_by_feat = self._see_rois(self.heads[-1].predict_by_feat)

    def _see_features(self, stage: int) -> Callable:
        def see(classifier, inputs):
            self.features[stage] = inputs[0].detach()

        return see

    def _see_labels(self, stage: int, loss: Callable) -> Callable:
        def see(cls_score, bbox_pred, rois, labels, *args, **kwargs):
            self.rois[stage], self.labels[stage] = rois, labels
            return loss(cls_score, bbox_pred, rois, labels, *args, **kwargs)

        return see

    def _see_rois(self, predict: Callable) -> Callable:
        def see(rois, *args, **kwargs):
            self.rois = dict.fromkeys(self.features, torch.cat(rois))
            return predict(rois, *args, **kwargs)

        return see

    def image(self, index: int, metainfo: dict, labels: bool) -> ImageFeatures:
        """What an image of the batch had."""
        chosen = [self.rois[stage][:, 0] == index for stage in self.features]
        parts = [self.features, self.rois, self.labels]
        arrays = [
            [values[stage][rows].numpy() for stage, rows in enumerate(chosen)]
            for values in parts[: 2 + labels]
        ]
        arrays[1] = [rois[:, 1:] for rois in arrays[1]]
        return ImageFeatures(metainfo, *arrays)


def begin_features(folder: Path, cfg: Config, dataset, dim: int, splits: dict, stages=1) -> None:
    """Begin ``folder/features``, those of the detector in ``folder/detector.pth``."""
    checkpoint, model = folder / "detector.pth", cfg.to_dict()["model"]
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    made_of = list(dataset.metainfo["classes"]), stages, dim, "float32", model, digest
    description = CacheDescription(*made_of, splits, str(checkpoint))
    begin_cache(folder / "features", description)


def train_and_record(cfg: Config, folder: Path) -> nn.Module:
    """Train the classifiers of a detector for one pass by SGD, two of six images at a time.

    ``folder/detector.pth`` is how it begins, and ``folder/features`` what the classifiers saw, in
    training and of ``VAL_IMAGES`` of validation. Return the trained detector.
    """
    cfg.train_dataloader.dataset.indices = IMAGES
    cfg.val_dataloader.dataset.indices = VAL_IMAGES
    model, dataset = build(cfg)
    checkpoint = folder / "detector.pth"
    meta = {"dataset_meta": {"classes": dataset.metainfo["classes"]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, checkpoint)
    val_cfg = cfg.val_dataloader.dataset
    val = type(dataset)(**{key: value for key, value in val_cfg.items() if key != "type"})
    recorder = Recorder(model)
    counts = dataset.class_frequency.instance_count.tolist()
    pipelines = cfg.to_dict()["train_pipeline"], val_cfg.to_dict()["pipeline"]
    splits = {
        "train": SplitDescription("train.json", IMAGES, 64, pipelines[0], instance_count=counts),
        "val": SplitDescription("val.json", VAL_IMAGES, 64, pipelines[1]),
    }
    dim, stages = recorder.heads[0].fc_cls.in_features, len(recorder.heads)
    begin_features(folder, cfg, dataset, dim, splits, stages)

    model.eval().requires_grad_(False)
    for head in recorder.heads:
        head.fc_cls.train().requires_grad_(True)
        head.loss_cls.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], LR)
    images = []
    for first in range(0, IMAGES, BATCH):
        batch = batch_of(model, dataset, range(first, first + BATCH))
        total, _ = model.parse_losses(model(**batch, mode="loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        for head in recorder.heads:
            if hasattr(head.loss_cls, "add_deferred"):  # what ClassFrequencyHook does
                head.loss_cls.add_deferred()
        samples = enumerate(batch["data_samples"])
        images += [recorder.image(i, sample.metainfo, True) for i, sample in samples]
    write_shard(folder / "features", "train", 0, images, "float32")
    images = []
    for index in range(len(val)):
        batch = batch_of(model, val, [index], training=False)
        with torch.no_grad():
            model(**batch, mode="predict")
        images.append(recorder.image(0, batch["data_samples"][0].metainfo, False))
    write_shard(folder / "features", "val", 0, images, "float32")
    return model
