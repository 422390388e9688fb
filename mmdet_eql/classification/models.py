"""The image classifier: any backbone of MMDetection, and a head on its pooled features.

N images of a batch, C classes.
"""

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone and head.

    Args:
        backbone (dict): A backbone of mmdet; its last feature map is used.
        head (dict): A :class:`ClassificationHead`.
        freeze_backbone (bool): Whether the backbone keeps its weights and batch normalisation
            statistics, for the second stage of two-stage training.
        **kwargs: ``data_preprocessor`` (``ImgDataPreprocessor``) and ``init_cfg``, as in mmengine.
    """

    def __init__(self, backbone: dict, head: dict, freeze_backbone: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.backbone = MODELS.build(backbone)
        self.head = MODELS.build(head)
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "ImageClassifier":
        """As in PyTorch; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def forward(
        self, inputs: Tensor, data_samples: Tensor | None = None, mode: str = "tensor"
    ) -> dict[str, Tensor] | list[dict] | Tensor:
        """Run the model on normalised images of shape (N, 3, H, W) and labels, int64 of shape (N,).

        Returns:
            dict[str, Tensor] | list[dict] | Tensor: For mode ``"loss"`` the losses; for
            ``"predict"``, of each image, ``scores`` of shape (C,) and, if it was given,
            ``gt_label``; for ``"tensor"`` the logits of shape (N, C).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.backbone(inputs)[-1]
        logits = self.head(features)
        if mode == "loss":
            return self.head.loss(logits, data_samples)
        if mode == "predict":
            results = [dict(scores=row) for row in self.head.scores(logits)]
            if data_samples is not None:
                for result, label in zip(results, data_samples.tolist(), strict=True):
                    result["gt_label"] = label
            return results
        return logits


@MODELS.register_module()
class ClassificationHead(BaseModule):
    """Global average pooling, the classifier, and any loss of :mod:`mmdet_eql.losses`.

    Args:
        in_channels (int): Channels of the backbone's last feature map.
        num_classes (int): C.
        loss_cls (dict): The loss. One with a background output needs ``has_background=False``.
        classifier (dict, optional): The last layer; ``LinearClassifier`` by default.
        init_cfg (dict, optional): As in mmengine.

    Raises:
        UserError: If the loss wants another number of logits than C, or cosines of another scale.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        loss_cls: dict,
        classifier: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.loss_cls = MODELS.build(loss_cls)
        channels = num_classes
        if getattr(self.loss_cls, "custom_cls_channels", False):
            channels = self.loss_cls.get_cls_channels(num_classes)
        if channels != num_classes:
            raise UserError(
                f"model.head.loss_cls: {type(self.loss_cls).__name__} wants {channels} logits for "
                f"{num_classes} classes, and images have no background; set "
                "loss_cls.has_background=False, or use a loss without a background output."
            )
        classifier = classifier or dict(type="LinearClassifier")
        self.classifier = MODELS.build(
            dict(classifier, in_features=in_channels, out_features=num_classes)
        )
        scale = getattr(self.loss_cls, "scale", None)
        if scale is not None and getattr(self.classifier, "scale", None) != scale:
            raise UserError(
                f"model.head.loss_cls: {type(self.loss_cls).__name__} takes logits for cosines "
                f"times its scale {scale}, which {type(self.classifier).__name__} does not give; "
                f"set classifier=dict(type='CosineClassifier', scale={scale})."
            )
        #: For the accuracy of many, medium and few shots.
        self.training_counts = TrainingCounts(num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of shape (N, C), for a feature map of shape (N, D, h, w)."""
        return self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``acc``, the accuracy of the batch in percent."""
        return {"loss_cls": self.loss_cls(logits, labels), "acc": accuracy(logits, labels)}

    def scores(self, logits: Tensor) -> Tensor:
        """Return the loss's activation of the logits, or their softmax, shape (N, C)."""
        if getattr(self.loss_cls, "custom_activation", False):
            # Sigmoid losses append a zero background column.
            return self.loss_cls.get_activation(logits)[:, : self.num_classes]
        return logits.softmax(dim=1)


class _Classes(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class TrainingCounts(CountAware, _Classes):
    """The training set's class counts, in the buffer ``class_counts``."""
