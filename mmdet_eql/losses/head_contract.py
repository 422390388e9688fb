"""Which head works with which loss, checked when a model is built.

A box head asks its loss for the number of outputs and for the scores. A dense or query head has C
outputs that it scores by sigmoids, or C + 1 that it scores by a softmax, whatever its loss is, and
knows nothing else of it. A loss that does not fit is an error here; some would train and give wrong
scores. C is the number of foreground categories, K that of the logits of a loss.
"""

from typing import Any

from torch import nn

from mmdet_eql.losses.base import ClassificationLoss, SigmoidLoss, SoftmaxLoss
from mmdet_eql.losses.class_statistics import CountAware, GradientSums
from mmdet_eql.losses.equalized_focal import EqualizedQualityFocalLoss
from mmdet_eql.utils.errors import UserError

#: The heads that score C sigmoids, by the names of mmdet's classes, and whether they give the
#: quality of a positive with its label.
SIGMOID_HEADS = {
    "RetinaHead": False,
    "FCOSHead": False,
    "ATSSHead": False,
    "GFLHead": True,
    "TOODHead": True,
    "RTMDetHead": True,
    "RTMDetSepBNHead": True,
    "RTMDetInsHead": True,
    "RTMDetInsSepBNHead": True,
    "YOLOXHead": True,
    "ConditionalDETRHead": True,
    "DABDETRHead": True,
    "DeformableDETRHead": True,
    "DINOHead": True,
    "DIIHead": False,
}
#: Those that have C + 1 outputs and score them by a softmax.
SOFTMAX_HEADS = ("DETRHead", "MaskFormerHead", "Mask2FormerHead")
_NO_QUALITY = "the head gives no IoU with its labels; use EqualizedFocalLoss."
#: The attributes of a head that hold a loss of the categories.
_LOSSES = ("loss_cls", "initial_loss_cls")
_PER_CATEGORY = (CountAware, GradientSums)


def connect_losses(model: nn.Module) -> None:
    """Tell each loss its head's number of categories, and check that the head works with it.

    A head that is derived from one of mmdet's counts as that one. This has to happen before a
    checkpoint is loaded; ``ClassFrequencyHook`` and the launchers do it. Heads that are not
    mmdet's, and losses that are not this package's, are left alone, but for mmdet's on sigmoids in
    a box head.

    Raises:
        UserError: With the dotted key of the head, if a loss does not work there.
    """
    for name, head in model.named_modules():
        if name.endswith("roi_head.bbox_head") and isinstance(head, nn.ModuleList):
            _check_stages(f"model.{name}", head)
        stock = _stock_class(head)
        for attribute in _LOSSES:
            loss = getattr(head, attribute, None)
            if stock is not None and _scored_otherwise(head, stock, loss):
                raise UserError(
                    f"model.{name}.{attribute}: {type(loss).__name__} trains {head.num_classes} "
                    f"sigmoids and one for background, which {type(head).__name__} scores by a "
                    "softmax; use dict(_delete_=True, type='EqualizationLoss', lambda_=0) for "
                    "sigmoid cross-entropy, or SigmoidFocalLoss."
                )
            if stock is None or not isinstance(loss, ClassificationLoss):
                continue
            reason = _misfit(head, stock, loss, attribute)
            if reason:
                raise UserError(
                    f"model.{name}.{attribute}: {type(loss).__name__} does not work in "
                    f"{stock.__name__}: {reason}"
                )


def _check_stages(name: str, heads: nn.ModuleList) -> None:
    """Raise a UserError if a cascade, which averages the logits of its stages, would average such
    of different scores."""

    def scores(head: nn.Module) -> tuple:
        activation = getattr(type(head.loss_cls), "get_activation", SoftmaxLoss.get_activation)
        return activation, getattr(head.loss_cls, "extra_logits", 1)

    for stage, head in enumerate(heads):
        stock = _stock_class(head)
        if stock is None or stock.__name__ in SIGMOID_HEADS:  # as in Sparse R-CNN
            return
        if scores(head) != scores(heads[-1]):
            raise UserError(
                f"{name}.{stage}.loss_cls: {type(head.loss_cls).__name__} scores otherwise than "
                f"{type(heads[-1].loss_cls).__name__} of the last stage, and a cascade averages "
                "the logits of all; set loss_cls of each stage."
            )


def _stock_class(head: nn.Module) -> type | None:
    return next((kind for kind in type(head).__mro__ if kind.__module__.startswith("mmdet.")), None)


def _scored_otherwise(head: nn.Module, stock: type, loss: Any) -> bool:
    """Whether the loss is one of mmdet's on sigmoids, in a box head that knows softmax alone."""
    is_box_head = hasattr(head, "custom_activation") and stock.__name__ not in SIGMOID_HEADS
    return is_box_head and not head.custom_activation and getattr(loss, "use_sigmoid", False)


def _misfit(head: nn.Module, stock: type, loss: ClassificationLoss, attribute: str) -> str | None:
    """What is wrong and what to do, None if the loss works."""
    loss.get_cls_channels(head.num_classes)
    num_classes, name = head.num_classes, stock.__name__
    needed = num_classes + loss.extra_logits
    outputs = _num_outputs(head)
    wants_labels = getattr(loss, "image_level_labels", False)
    with_labels = (
        f"ImageLevel{name}"
        if name in SIGMOID_HEADS
        else "a box head that does, as ImageLevelShared2FCBBoxHead"
    )
    if wants_labels and not getattr(head, "passes_image_level_labels", False):
        return (
            f"the head does not pass image-level labels on; use {with_labels}, or set "
            "image_level_labels=False."
        )
    if hasattr(head, "custom_activation") and name not in SIGMOID_HEADS:  # a box head
        if not getattr(loss, "has_background", True):
            return (
                "the loss has no output for background proposals; use one that has, such as "
                "SoftmaxEqualizationLoss without has_background=False."
            )
        started = getattr(getattr(head, "fc_cls", None), "activation", loss.activation)
        if started != loss.activation:
            return (
                f"PriorLinear starts {started}s, but the loss trains {loss.activation}s; set "
                f"cls_predictor_cfg=dict(type='PriorLinear', activation={loss.activation!r})."
            )
        if outputs not in (None, needed):
            return (
                f"the head has {outputs} outputs for {num_classes} categories, whatever its loss "
                f"is, which needs {needed}; use a head that asks, as Shared2FCBBoxHead."
            )
        return _NO_QUALITY if isinstance(loss, EqualizedQualityFocalLoss) else None
    if loss.box_heads_only:
        return (
            "it is defined for the proposals of a box head; use one, as Shared2FCBBoxHead, or "
            "another loss."
        )
    if name in SOFTMAX_HEADS:
        return _softmax_misfit(loss, needed, outputs)
    if name not in SIGMOID_HEADS:
        return f"the head is none of {', '.join((*SIGMOID_HEADS, *SOFTMAX_HEADS))}."
    if not loss.use_sigmoid and isinstance(loss, SigmoidLoss):
        return "the head has no output for objectness; set use_sigmoid=True in the loss."
    if not loss.use_sigmoid:
        return "the head has no output for background; use a loss on sigmoids."
    if outputs != needed:
        return (
            f"the head has {outputs} outputs, since use_sigmoid is not set; write "
            f"dict(type={type(loss).__name__!r}, use_sigmoid=True, ...)."
        )
    has_probabilities = name == "TOODHead"
    if loss.activated != has_probabilities:
        what = "probabilities" if has_probabilities else "logits"
        return f"the head hands over {what}; set activated={has_probabilities} in the loss."
    divides = name == "YOLOXHead"
    if loss.reduction != ("sum" if divides else "mean"):
        return (
            "the head divides the sum of the loss itself; set reduction='sum'."
            if divides
            else "the head gives its loss the number to divide by; set reduction='mean'."
        )
    if name == "DeformableDETRHead" and head.as_two_stage and isinstance(loss, _PER_CATEGORY):
        return (
            "the encoder of its two stages labels all objects 0, which the statistics of category "
            "0 would count; set as_two_stage=False, use DINO or a loss without such statistics."
        )
    gives_quality = SIGMOID_HEADS[name] and attribute == "loss_cls"
    if isinstance(loss, EqualizedQualityFocalLoss) and not gives_quality:
        return _NO_QUALITY
    return None


def _softmax_misfit(loss: ClassificationLoss, needed: int, outputs: int) -> str | None:
    plain = isinstance(loss, SoftmaxLoss) and (
        type(loss).get_activation is SoftmaxLoss.get_activation
    )
    if not plain or needed != outputs:
        return (
            f"the head scores {outputs} outputs by a softmax, the last of which is background; use "
            "SoftmaxEqualizationLoss or ClassBalancedSoftmaxLoss."
        )
    if loss.class_weight is not None and len(loss.class_weight) != outputs:
        return (
            f"class_weight has {len(loss.class_weight)} numbers; give {outputs}, one for each "
            "category and one for background."
        )
    return None


def _num_outputs(head: nn.Module) -> int | None:
    for layer in ("fc_cls", "cls_embed"):
        if hasattr(head, layer):
            return getattr(getattr(head, layer), "out_features", None)
    return getattr(head, "cls_out_channels", None)
