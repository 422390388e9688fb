"""What an experiment trains, in one line."""

from mmengine.config import Config

#: Arguments of a loss that are told if the config sets them.
_TOLD = ("lambda_", "lambda_count", "gamma", "exclude_background", "image_level_labels")
_DEFAULT_SAMPLERS = ("DefaultSampler", "InfiniteSampler")
#: Datasets of which there are several, told apart by their folders.
_NAMED_BY_FOLDER = ("LVISFormatDataset", "CountedOpenImagesChallengeDataset")


def summarize(cfg: Config) -> tuple[str, str, str, str, str]:
    """Say what a config trains.

    Args:
        cfg (Config): The merged config of a detector or a classifier.

    Returns:
        tuple[str, str, str, str, str]: Model and backbone; loss of the classifier; sampler of the
        training images, empty if it is the usual one; dataset; length of the training.

    Example:
        >>> summarize(cfg)  # doctest: +SKIP
        ('MaskRCNN, ResNet-50', 'EqualizationLoss(lambda_=0.0011)', '', 'lvis_v1',
         '12 epochs of 16 images per step')
    """
    sampler = cfg.train_dataloader.sampler.type
    return (
        _model(cfg.model),
        _loss(cfg.model),
        "" if sampler in _DEFAULT_SAMPLERS else sampler,
        _dataset(cfg.train_dataloader.dataset),
        _length(cfg),
    )


def _model(model: dict) -> str:
    depth = model.backbone.get("depth")
    parts = [model.type, model.backbone.type + (f"-{depth}" if depth else "")]
    if "dcn" in model.backbone:
        parts.append("deformable")
    roi_head = model.get("roi_head", {})
    if "semantic_head" in roi_head:
        parts.append("semantic branch")
    if "shared_head" in roi_head:
        parts.append("C4")
    mask_head = _first(roi_head.get("mask_head") or {"class_agnostic": True})
    if not mask_head.get("class_agnostic"):
        parts.append("class-specific masks")
    return ", ".join(parts)


def _first(stages: dict | list) -> dict:
    return stages[0] if isinstance(stages, list) else stages


def _loss(model: dict) -> str:
    loss = _first(model.roi_head.bbox_head if "roi_head" in model else model.head).loss_cls
    told = [f"{key}={loss[key]}" for key in _TOLD if loss.get(key) is not None]
    if loss.get("tail_weighting"):
        told.append(loss.tail_weighting.type)
    return loss.type + (f"({', '.join(told)})" if told else "")


def _dataset(dataset: dict) -> str:
    if dataset.type not in _NAMED_BY_FOLDER:
        return dataset.type
    return dataset.data_root.rstrip("/").rpartition("/")[2]


def _length(cfg: Config) -> str:
    epochs, iterations = cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters")
    length = f"{epochs} epochs" if epochs else f"{iterations} iterations"
    return f"{length} of {cfg.auto_scale_lr.base_batch_size} images per step"
