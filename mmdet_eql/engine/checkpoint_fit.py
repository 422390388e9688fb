"""Whether a checkpoint fits a model and its classes."""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmdet_eql.utils.differences import first_difference
from mmdet_eql.utils.errors import UserError

#: Keys or modules that a message lists before it counts the rest.
_SHOWN = 4
#: Keys of a model's config on which its scores do not depend, or its weights show it.
_WITHOUT_SCORES = re.compile(
    "train_cfg|test_cfg|init_cfg|pretrained|loss_(?!cls$).*|num_classes|frozen_stages|norm_eval|"
    "with_cp|stage_loss_weights|mask_.*|pad_.*|batch_augments"
)
#: Parts whose types differ in speed, or in what they hand to a loss.
_SAME_BY_TYPE = ("roi_head", "bbox_head", "bbox_roi_extractor", "roi_layer")
#: Statistics of a loss, which a test does not need.
_OF_LOSSES = re.compile(r"(^|\.)loss_\w+\.")


def classes_of_checkpoint(checkpoint: dict) -> tuple[str, ...] | None:
    """Return the classes that a checkpoint names in its ``dataset_meta``, in the order of labels.

    MMDetection 2 called them ``CLASSES``. None if it names none.
    """
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    classes = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    return tuple(classes) if isinstance(classes, (list, tuple)) else None


def weights_of(checkpoint: dict) -> dict:
    """Return the weights of a checkpoint by name, as the runner loads them."""
    weights = checkpoint.get("state_dict", checkpoint)
    named = OrderedDict((re.sub(r"^module\.", "", str(key)), weights[key]) for key in weights)
    # By the versions in there, modules rename weights of older ones.
    named._metadata = getattr(weights, "_metadata", OrderedDict())
    return named


def has_fitting_weights(model: nn.Module, checkpoint: dict) -> bool:
    """Return whether a weight of the checkpoint has name and shape of one of the model."""
    own = model.state_dict()
    return any(_fits(value, own.get(key)) for key, value in weights_of(checkpoint).items())


def check_weights(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Load a checkpoint into a model that is to be tested, all of it.

    What the checkpoint has besides is left out: a model without masks can be tested with the
    weights of one with masks. Statistics of losses may be missing, and what ``ClassFrequencyHook``
    counts anew.

    Raises:
        UserError: If weights are missing or have another shape; ``path`` names the checkpoint.
    """
    weights, own = weights_of(checkpoint), model.state_dict()
    others = {key for key in own if key in weights and not _fits(weights[key], own[key])}
    misfits = [
        f"{key} of {_shape(weights[key])} instead of {_shape(own[key])}" for key in sorted(others)
    ]
    fitting = OrderedDict((key, value) for key, value in weights.items() if key not in others)
    fitting._metadata = weights._metadata
    counted = {
        name
        for name, module in model.named_modules()
        if hasattr(module, "set_class_frequency") or hasattr(module, "set_class_counts")
    }
    missing = [
        key
        for key in model.load_state_dict(fitting, strict=False).missing_keys
        if key not in others
        and "num_batches_tracked" not in key
        and not _OF_LOSSES.search(key)
        and key.rpartition(".")[0] not in counted
    ]
    if not misfits and not missing:
        return
    if not has_fitting_weights(model, checkpoint):
        problem = f"none of its weights ({_list(list(weights))}) is one of the model"
        inner = checkpoint.get("model")
        keys = [*checkpoint, *(inner if isinstance(inner, dict) else ())]
        if any("bottom_up" in str(key) for key in keys):
            problem = "is a checkpoint of Detectron2, whose weights have other names"
    else:
        parts = sorted({key.rpartition(".")[0] for key in missing})
        problems = [f"it lacks {_list(parts)}"] if parts else []
        problems += [f"it has {_list(misfits)}"] if misfits else []
        problem = " and ".join(problems)
    raise UserError(
        f"{path}: does not fit the model of the config: {problem}; give the config that it was "
        "trained with, or a checkpoint of this config."
    )


def check_resumed_classes(
    checkpoint: dict, classes: Sequence[str], path: str, logger: logging.Logger
) -> None:
    """Raise a UserError if a training would go on with other classes than its checkpoint names."""
    named = classes_of_checkpoint(checkpoint)
    if named is None:
        logger.warning(
            f"{path}: names no classes (meta['dataset_meta']); they are taken to be those of the "
            "training set, in their order."
        )
    elif named != tuple(classes):
        what = f"has {len(named)} classes, and the training set {len(classes)}"
        pairs = [pair for pair in zip(named, classes, strict=False) if pair[0] != pair[1]]
        if pairs:
            what = f"has the class {pairs[0][0]!r} where the training set has {pairs[0][1]!r}"
        raise UserError(
            f"{path}: {what}, so that this training cannot go on from it; give the training set "
            "that it was trained on, or begin a new training by load_from."
        )


def warn_of_classifier(
    model: nn.Module, checkpoint: dict, classes: Sequence[str], path: str, logger: logging.Logger
) -> None:
    """Log a warning if a training begins with the classifier of as many other classes."""
    named, own = classes_of_checkpoint(checkpoint), model.state_dict()
    rows = (len(classes), len(classes) + 1)
    # The RPN has an output for each anchor, of which there are three; a loss has statistics.
    classifier = [
        key
        for key, value in weights_of(checkpoint).items()
        if re.search("(?<!rpn_)(?<!loss_)cls", key)
        and _fits(value, own.get(key))
        and own[key].dim()
        and len(own[key]) in rows
    ]
    if classifier and named != tuple(classes):
        whose = "does not name" if named is None else "names in another order or as others"
        logger.warning(
            f"{path}: its classifier ({classifier[0]}) is loaded label by label for the "
            f"{len(classes)} classes of the training set, which it {whose}; to begin with a new "
            "classifier, leave it out by PartialLoadHook (docs/custom-data.md)."
        )


def warn_of_other_model(model: Any, checkpoint: dict, path: str, logger: logging.Logger) -> None:
    """Log a warning if a checkpoint that fits was trained with another model than it is tested in.

    Shapes do not tell a softmax from as many sigmoids, nor a cosine from a linear classifier. A
    checkpoint knows its model if ``ResumeRandomnessHook`` took part in its training.

    Args:
        model (dict): The config of the model; anything else is not compared.
    """
    info = (checkpoint.get("message_hub") or {}).get("runtime_info") or {}
    trained = (info.get("trained_with") or {}).get("model")
    if not trained or not isinstance(model, dict):
        return
    texts = trained, json.dumps(model, default=str)
    there, now = (_scoring_part(json.loads(text)) for text in texts)
    difference = first_difference(there, now, "model")
    if difference is not None:
        logger.warning(
            f"{path}: was trained with {difference[0]} = {difference[1]!r:.100}, which is "
            f"{difference[2]!r:.100} in the config; its scores are right in the model of its "
            "training, unless this change is meant."
        )


def _scoring_part(part: Any, key: str = "") -> Any:
    """What of a model's config sets its scores, though no weight shows it."""
    if isinstance(part, list):
        return [_scoring_part(item, key) for item in part]
    if not isinstance(part, dict):
        return part
    for wrapped in ("detector", "module"):  # of FrozenFeatureDetector, of test-time augmentation
        if not key and wrapped in part:
            return _scoring_part(part[wrapped])
    left_out = _WITHOUT_SCORES
    if key == "loss_cls":
        left_out = re.compile("(?!(type|use_sigmoid)$).*")
    elif key in _SAME_BY_TYPE:
        left_out = re.compile(f"{_WITHOUT_SCORES.pattern}|type")
    names = [name for name in part if part[name] is not None and not left_out.fullmatch(name)]
    scoring = {name: _scoring_part(part[name], name) for name in names}
    if isinstance(scoring.get("type"), str):
        scoring["type"] = scoring["type"].rpartition(".")[2]  # without its scope
    return scoring


def _fits(value: object, own: Tensor | None) -> bool:
    return isinstance(value, Tensor) and own is not None and value.shape == own.shape


def _shape(value: object) -> str:
    return "x".join(map(str, getattr(value, "shape", ()))) or "no size"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
