"""The detector of which the classifier alone is trained, on cached features.

For N, D and C see :mod:`mmdet_eql.decoupled.feature_dataset`.
"""

from typing import Any

from mmdet.models.roi_heads import CascadeRoIHead, HybridTaskCascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead
from mmdet.registry import HOOKS, MODELS
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, arange, nn

from mmdet_eql.decoupled.frozen_detector import check_roi_head
from mmdet_eql.engine.checkpoint_fit import weights_of
from mmdet_eql.engine.class_list_hook import bare_model, is_training
from mmdet_eql.heads import ImageLevelLabelHeadMixin, passing_labels
from mmdet_eql.heads.roi_head import stages_of
from mmdet_eql.utils.errors import UserError

#: The parts of a box head that are trained.
_TRAINED = ("fc_cls", "loss_cls")
#: Where a checkpoint notes which detector made the features that it was trained on.
_DETECTOR = "detector_of_features"
#: Whose methods compute scores and losses from the classifier's input alone.
_ROI_HEADS = (BaseRoIHead, StandardRoIHead, CascadeRoIHead, HybridTaskCascadeRoIHead)
_BOX_HEADS = (BBoxHead, ConvFCBBoxHead, ImageLevelLabelHeadMixin)


@MODELS.register_module()
class FrozenFeatureDetector(BaseModel):
    """A two-stage detector whose classifiers are trained on cached features.

    All but the classifiers (of each stage, in a cascade) and the statistics of their losses is
    frozen and in evaluation mode. Weights have the same names as in the detector, so that a
    checkpoint is one of the detector. Training and validation take the batches of
    :class:`~mmdet_eql.decoupled.feature_dataset.FeatureDataset`; a test takes images.

    Args:
        detector (dict): Config of the detector.

    Raises:
        UserError: If scores or boxes of the RoI head depend on more than the classifier's input,
            or the features of a stage on a classifier that is trained.
    """

    def __init__(self, detector: dict) -> None:
        super().__init__()
        built = MODELS.build(detector)
        self.heads = box_heads(built)
        # The same modules, without a prefix in the names of their weights.
        self.__dict__["detector"] = built
        for name, child in built.named_children():
            self.add_module(name if name != "data_preprocessor" else "image_preprocessor", child)
        # A classifier may train a part of itself alone, as ScaledClassifier.
        trained = [
            parameter
            for module in self.trained_modules().values()
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        self.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        super().train(False)

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the classifiers and their losses by name."""
        modules = {id(getattr(head, part)) for head in self.heads for part in _TRAINED}
        return {name: module for name, module in self.named_modules() if id(module) in modules}

    def init_weights(self) -> None:
        """Initialize the classifiers; a checkpoint has the rest."""
        for head in self.heads:
            head.init_weights()

    def train(self, mode: bool = True) -> "FrozenFeatureDetector":
        """Set the mode of what is trained."""
        # Called in each iteration: to go through all modules would take a tenth of it.
        self.training = mode
        for head in self.heads:
            for part in _TRAINED:
                getattr(head, part).train(mode)
        return self

    def forward(self, mode: str = "loss", **batch: Any) -> dict[str, Tensor] | list[DetDataSample]:
        """Return the losses of a training batch, or with ``mode="predict"`` the detections of a
        validation batch."""
        return self.predict(**batch) if mode == "predict" else self.loss(**batch)

    def loss(
        self, features: list[Tensor], labels: list[Tensor], verified: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the classification losses and accuracies that the detector would return.

        Args:
            features (list[Tensor]): Of each stage, (N, D).
            labels (list[Tensor]): Of each stage, int64 (N,).
            verified (list[Tensor], optional): Image-level labels of each stage, bool (N, C).
        """
        losses = {}
        for stage, (head, rows, target) in enumerate(
            zip(self.heads, features, labels, strict=True)
        ):
            cls_score = head.fc_cls(rows.float())
            weights = cls_score.new_ones(len(target))
            if not len(target):
                # Each rank has to have gradients.
                of_stage = {"loss_cls": cls_score.sum()}
            else:
                of_rows = None if verified is None else verified[stage]
                with passing_labels(head, of_rows, arange):
                    of_stage = head.loss(cls_score, None, None, target, weights, None, None)
            if len(self.heads) == 1:
                return of_stage
            factor = self.detector.roi_head.stage_loss_weights[stage]
            for name, value in of_stage.items():
                losses[f"s{stage}.{name}"] = value * factor if "loss" in name else value
        return losses

    def predict(
        self, features: list[Tensor], rois: Tensor, counts: list[int], metainfo: list[dict]
    ) -> list[DetDataSample]:
        """Return the boxes that the detector would find in images of these features.

        Args:
            features (list[Tensor]): Of each stage, (N, D).
            rois (Tensor): Of the last stage, x1, y1, x2, y2 in the network's input, (N, 4).
            counts (list[int]): RoIs of each image.
            metainfo (list[dict]): Of each image.
        """
        roi_head, last = self.detector.roi_head, self.heads[-1]
        scores = [
            head.fc_cls(rows.float()) for head, rows in zip(self.heads, features, strict=True)
        ]
        scores = (sum(scores) / float(len(scores))).split(counts)
        boxes = [None] * len(counts)
        if last.with_reg:
            boxes = last.fc_reg(features[-1].float()).split(counts)
        # With masks, mmdet rescales the boxes after NMS.
        results = last.predict_by_feat(
            rois=nn.functional.pad(rois, (1, 0)).split(counts),
            cls_scores=scores,
            bbox_preds=boxes,
            batch_img_metas=metainfo,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=not roi_head.with_mask,
        )
        samples = []
        for instances, info in zip(results, metainfo, strict=True):
            if roi_head.with_mask and len(instances):
                instances.bboxes /= rois.new_tensor(info["scale_factor"]).repeat(2)
            samples.append(DetDataSample(metainfo=info, pred_instances=instances))
        return samples

    def test_step(self, data: Any) -> list[DetDataSample]:
        """Return what the detector finds in images."""
        return self.detector.test_step(data)


def box_heads(detector: nn.Module) -> list[BBoxHead]:
    """Return the box heads of a detector, one per stage.

    Raises:
        UserError: If their classifiers cannot be trained on cached features.
    """
    roi_head = getattr(detector, "roi_head", None)
    check_roi_head(roi_head, getattr(detector, "rpn_head", None))
    _check_methods(roi_head, "model.roi_head", ("predict", "predict_bbox"), _ROI_HEADS)
    heads = stages_of(roi_head.bbox_head)
    for head in heads:
        methods = ("forward", "loss", "loss_and_target")
        _check_methods(head, "model.roi_head.bbox_head", methods, _BOX_HEADS)
    return heads


def _check_methods(
    module: nn.Module, key: str, names: tuple[str, ...], known: tuple[type, ...]
) -> None:
    """Raise a UserError if a module has one of these methods from another class."""
    for name in names:
        method = getattr(type(module), name, None)
        if method not in [getattr(kind, name, None) for kind in known]:
            raise UserError(
                f"{key}: {type(module).__name__} has a {name}() of its own, which cached features "
                "do not stand for; train it end to end."
            )


@HOOKS.register_module()
class FrozenDetectorHook(Hook):
    """Begin from the weights of the detector that made the features, less its classifier.

    Args:
        keep_classifier (bool): Whether the classifier goes on from its weights there.
        checkpoint_sha256 (str): Digest of that detector's checkpoint.
    """

    def __init__(self, keep_classifier: bool = False, checkpoint_sha256: str = "") -> None:
        self.keep_classifier = keep_classifier
        self.checkpoint_sha256 = checkpoint_sha256
        self._has_weights = False

    def before_train(self, runner: Runner) -> None:
        """Raise a UserError if the detector would be one of random weights."""
        if not self._has_weights:
            raise UserError(
                "load_from is not set: the frozen detector has no weights; set it to the "
                "checkpoint that made the features."
            )
        runner.message_hub.update_info(_DETECTOR, self.checkpoint_sha256)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the classifiers out; a UserError if the checkpoint lacks a frozen weight, or a run
        is resumed that was not trained on features of this detector."""
        self._has_weights = True
        if not is_training(runner):
            return
        if runner.cfg.get("resume"):
            info = checkpoint["message_hub"]["runtime_info"]
            if info.get(_DETECTOR) != self.checkpoint_sha256:
                raise UserError(
                    f"{runner.cfg.load_from}: was not trained on features of this detector; give "
                    "another --work-dir, or the features that it was trained on."
                )
            return
        model = bare_model(runner)
        left_out = tuple(
            f"{name}."
            for name in model.trained_modules()
            if not (self.keep_classifier and name.endswith(".fc_cls"))
        )
        for name, parameter in model.named_parameters():
            of_classifier = name.rpartition(".")[0].endswith("fc_cls")
            if of_classifier and name.startswith(left_out) and not parameter.requires_grad:
                raise UserError(
                    f"model.{name}: is not trained by this classifier, and would stay as it was "
                    "drawn at random; set decoupled.keep_classifier=True."
                )
        weights, known = checkpoint.get("state_dict", checkpoint), weights_of(checkpoint)
        for name, value in model.state_dict().items():
            owner, _, kind = name.rpartition(".")
            is_new = owner.endswith("fc_cls") and kind not in ("weight", "bias")
            if name.startswith(left_out) or kind == "num_batches_tracked":
                continue
            if is_new and name not in known:
                continue
            if getattr(known.get(name), "shape", None) != value.shape:
                raise UserError(
                    f"{runner.cfg.load_from}: has no {name} of {'x'.join(map(str, value.shape))}, "
                    "which the model of the config has; give the config that the checkpoint was "
                    "trained with, but for loss_cls, cls_predictor_cfg and the sampler."
                )
        for name in [*weights]:
            if name.removeprefix("module.").startswith(left_out):
                del weights[name]
