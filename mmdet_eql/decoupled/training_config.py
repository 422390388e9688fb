"""From the config of a detector to the training of its classifier on cached features.

A config with ``features = "FOLDER"`` trains the classifier alone. Its loss, classifier, data sets,
sampler, seed, evaluator and hooks count; its schedule, which is a detector's, does not. In its
place is that of the dict ``decoupled``, for which :data:`SCHEDULE` has the defaults::

    features = "work_dirs/features"
    decoupled = dict(epochs=24, optimizer=dict(lr=0.05))
"""

import copy
import inspect
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

from mmdet.registry import DATA_SAMPLERS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.logging import print_log

from mmdet_eql.decoupled.feature_cache import CacheDescription, read_description, sha256_of
from mmdet_eql.engine.config_check import listed
from mmdet_eql.utils.differences import first_difference
from mmdet_eql.utils.errors import UserError

#: The schedule, by the keys of ``decoupled``.
SCHEDULE = dict(
    # Passes over the training images, whatever the sampler draws.
    epochs=12,
    # Images in a step of each process.
    batch_size=16,
    # For 16 images a step; --auto-scale-lr multiplies it with their number.
    optimizer=dict(type="SGD", lr=0.1, momentum=0.0, weight_decay=0.0),
    # Shares of the training after which the learning rate falls to a tenth.
    lr_steps=(),
    # Epochs between two validations; None for one at the end.
    val_interval=None,
    # Whether the classifier goes on from that of the detector's checkpoint.
    keep_classifier=False,
    # Whether the classifier is the class means of the features, without training.
    class_means=False,
)
#: The types of its values, where a wrong one would not be noticed, and their names.
_KINDS = {
    "batch_size": (int, "a whole number"),
    "optimizer": (dict, "a dict"),
    "lr_steps": ((tuple, list), "a list"),
    "keep_classifier": (bool, "True or False"),
    "class_means": (bool, "True or False"),
}
#: Of which variable each launcher's processes learn how many they are.
_WORLD_SIZE = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}
#: Keys of a model that features do not depend on, wherever they are or in one part. Heads of other
#: types have the same features, unless they have methods of their own; a detector that is built
#: puts its test_cfg.rcnn into the roi_head.
_WITHOUT_EFFECT = (
    *("cls_predictor_cfg", "loss_cls", "loss_bbox", "loss_mask"),
    *("train_cfg", "rcnn", "stage_loss_weights", "frozen_stages", "norm_eval", "with_cp"),
    *("mask_head", "mask_roi_extractor", "pad_mask", "mask_pad_value", "num_classes", "init_cfg"),
    *("roi_head.type", "roi_head.test_cfg", "bbox_head.type"),
)
#: Keys of a config that ``decoupled`` replaces.
_REPLACED = (
    *("train_cfg.", "optim_wrapper.", "param_scheduler."),
    *("train_dataloader.batch_size", "train_dataloader.batch_sampler"),
)
#: Keys of models and data sets that have no effect on a classifier, wherever they are.
_NOT_TRAINED = ("loss_bbox", "loss_mask", "train_cfg", "pipeline", "init_cfg")


def train_on_features(cfg: Config) -> None:
    """Turn a config with ``features`` into the training of its classifier.

    Args:
        cfg (Config): The merged config, which is changed: ``features`` and ``decoupled`` are gone.
            Without ``features`` it stays as it is.

    Raises:
        UserError: If the features are not there, or not those of this detector, its sampler cannot
            be used, or ``decoupled`` is there without ``features``.
    """
    folder, given = cfg.pop("features", None), cfg.pop("decoupled", None)
    if folder is None and not given:
        return
    _check_keys(cfg, folder)
    schedule, cached = _schedule(given), read_description(folder)
    _check_detector(cfg, cached, folder)
    if cfg.get("resume"):
        raise UserError(
            "resume is True in the config, whose load_from is the detector of the features; use "
            "the option --resume of the command instead."
        )
    cfg.load_from = _checkpoint(cfg.get("load_from"), cached, folder)
    # A checkpoint has the weights of a backbone.
    cfg.model.get("backbone", {}).pop("init_cfg", None)
    heads = listed(cfg.model.get("roi_head", {}).get("bbox_head"))
    image_level_labels = any(head.get("loss_cls", {}).get("image_level_labels") for head in heads)
    cfg.model = ConfigDict(type="FrozenFeatureDetector", detector=cfg.model)

    for split in ("train", "val"):
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        # Memory maps need no workers.
        loader.update(num_workers=0, persistent_workers=False, collate_fn=dict(type="whole_batch"))
        loader.pop("prefetch_factor", None)
        options = {"image_level_labels": True} if split == "train" and image_level_labels else {}
        loader.dataset = dict(
            type="FeatureDataset", features=folder, split=split, dataset=loader.dataset, **options
        )
    loader = cfg.train_dataloader
    # All batches are alike, whatever the shape of their images.
    loader.update(batch_size=schedule["batch_size"], batch_sampler=None)
    loader.sampler = _endless(loader.sampler)
    for evaluator in listed(cfg.get("val_evaluator")):
        if evaluator.get("metric") is not None:
            evaluator.metric = "bbox"
    num_images = _count_images(cfg.train_dataloader.dataset, cached.splits["train"].images)
    _set_schedule(cfg, schedule, num_images)
    _set_hooks(cfg, schedule["keep_classifier"], cached.checkpoint_sha256)
    if schedule["class_means"]:
        cfg.custom_hooks.append(dict(type="ClassMeanHook"))


def _check_keys(cfg: Config, folder: Any) -> None:
    """Refuse what would train something else than the classifier."""
    if (cfg.get("model") or {}).get("type") == "FrozenFeatureDetector":
        raise UserError(
            f"{cfg.filename}: is the config that a training on features left in its work_dir, "
            "where 'features' and 'decoupled' have no effect; give the config that it came from."
        )
    if folder is None:
        raise UserError(
            "decoupled is set, but features is not, so that the whole detector would be trained; "
            "set features to the folder of tools/cache_features.py, or decoupled to None."
        )
    if not isinstance(folder, str) or not folder:
        raise UserError(f"features is {folder!r}; give the folder of tools/cache_features.py.")
    for key in ("model", "train_dataloader"):
        if not cfg.get(key):
            raise UserError(f"{key} is missing in the config; add it, or inherit it from _base_.")


def _schedule(given: Any) -> dict[str, Any]:
    schedule = copy.deepcopy(SCHEDULE)
    if not isinstance(given or {}, dict):
        raise UserError(f"decoupled is {given!r}; give a dict with {', '.join(SCHEDULE)}.")
    for key, value in (given or {}).items():
        if key not in SCHEDULE:
            raise UserError(f"decoupled has no {key!r}; its keys are {', '.join(SCHEDULE)}.")
        kind, name = _KINDS.get(key, (object, ""))
        if not isinstance(value, kind):
            raise UserError(f"decoupled.{key} is {value!r}; give {name}.")
        if key == "optimizer" and value.get("type", "SGD") == "SGD":
            value = {**schedule[key], **value}
        schedule[key] = value
    for key in ("epochs", "batch_size", "val_interval"):
        value = schedule[key]
        is_positive = isinstance(value, (int, float)) and value > 0
        if not is_positive and (key, value) != ("val_interval", None):
            raise UserError(f"decoupled.{key} is {value!r}; give a number above 0.")
    if schedule["class_means"] and len(given) > 1:
        raise UserError("decoupled.class_means trains nothing; leave out the other keys.")
    if not all(0 < share < 1 for share in schedule["lr_steps"]):
        raise UserError(
            f"decoupled.lr_steps is {schedule['lr_steps']!r}; give shares of the training, such as "
            "(0.7, 0.9)."
        )
    return schedule


def _count_images(dataset: dict, cached: int) -> int:
    """The images of the training set: those that are cached, or fewer by ``indices``."""
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    chosen = dataset.get("indices")
    if chosen is None:
        return cached
    return min(abs(chosen) if isinstance(chosen, int) else len(chosen), cached)


def _set_schedule(cfg: Config, schedule: dict[str, Any], num_images: int) -> None:
    """Count in iterations, the same for each sampler."""
    world_size = int(os.environ.get(_WORLD_SIZE.get(cfg.get("launcher"), ""), 1))
    per_epoch = num_images / (schedule["batch_size"] * world_size)
    iterations = max(round(schedule["epochs"] * per_epoch), 1)
    if schedule["class_means"]:
        # A step that changes nothing: runs end with a checkpoint and a validation.
        iterations, schedule["optimizer"] = 1, dict(type="SGD", lr=0.0)
    interval = schedule["val_interval"]
    interval = iterations if interval is None else max(round(interval * per_epoch), 1)
    cfg.train_cfg = ConfigDict(
        type="IterBasedTrainLoop", max_iters=iterations, val_interval=min(interval, iterations)
    )
    optimizer = schedule["optimizer"]
    cfg.optim_wrapper = ConfigDict(type="OptimWrapper", optimizer=optimizer)
    steps = [round(share * iterations) for share in schedule["lr_steps"]]
    cfg.param_scheduler = [
        ConfigDict(type="MultiStepLR", by_epoch=False, milestones=steps, gamma=0.1)
    ] * bool(steps)
    cfg.auto_scale_lr = ConfigDict(enable=False, base_batch_size=SCHEDULE["batch_size"])


def _set_hooks(cfg: Config, keep_classifier: bool, checkpoint_sha256: str) -> None:
    default = cfg.setdefault("default_hooks", ConfigDict())
    # The hook below does what it does, for the classifier and its loss.
    for name in [name for name, hook in default.items() if _is_partial_load(hook)]:
        del default[name]
    custom = [hook for hook in cfg.get("custom_hooks") or [] if not _is_partial_load(hook)]
    hook = dict(keep_classifier=keep_classifier, checkpoint_sha256=checkpoint_sha256)
    cfg.custom_hooks = [*custom, dict(type="FrozenDetectorHook", **hook)]
    checkpoint = default.setdefault("checkpoint", ConfigDict(type="AtomicCheckpointHook"))
    checkpoint.update(by_epoch=False, interval=cfg.train_cfg.max_iters)
    checkpoint.pop("save_best", None)
    logger = default.setdefault("logger", ConfigDict(type="LoggerHook"))
    logger.update(interval=max(logger.get("interval", 10), 100), log_metric_by_epoch=False)
    cfg.log_processor = ConfigDict(cfg.get("log_processor") or {}, by_epoch=False)


def _is_partial_load(hook: Any) -> bool:
    return isinstance(hook, dict) and hook.get("type") == "PartialLoadHook"


def _endless(sampler: dict) -> dict:
    """The sampler, without an end of its epochs."""
    kind = DATA_SAMPLERS.get(sampler["type"])
    if kind is not None and issubclass(kind, DefaultSampler):
        return ConfigDict(type="InfiniteSampler", shuffle=sampler.get("shuffle", True))
    if kind is not None and "infinite" in inspect.signature(kind).parameters:
        return ConfigDict(sampler, infinite=True)
    if kind is None or issubclass(kind, InfiniteSampler):
        return sampler
    raise UserError(
        f"train_dataloader.sampler: {sampler['type']} ends after an epoch, and the training on "
        "features counts iterations; use DefaultSampler, RepeatFactorSampler or "
        "CategoryAwareSampler."
    )


def _check_detector(cfg: Config, cached: CacheDescription, folder: str) -> None:
    """Refuse a config whose features would be others than the cached ones."""
    pairs = [("model", cached.model, cfg.model)]
    there, now = (_choice_of_rois(model.get("train_cfg") or {}) for model in pairs[0][1:])
    pairs += [(f"model.train_cfg.{key}", there[key], now[key]) for key in there]
    loader = cfg.get("val_dataloader")
    if loader is not None and "val" in cached.splits:
        pipelines = cached.splits["val"].pipeline, loader.dataset.get("pipeline")
        pairs.append(("val_dataloader.dataset.pipeline", *map(_image_steps, pipelines)))
    for key, there, now in pairs:
        there, now = (_without(_WITHOUT_EFFECT, part, nones=False) for part in (there, now))
        difference = first_difference(there, now, key)
        if difference is not None:
            raise UserError(
                f"{difference[0]} is {difference[2]!r}, but {difference[1]!r} in the config that "
                f"the features in {folder} were made with; make features with this config, or "
                "train the classifier of that one."
            )


def _choice_of_rois(train_cfg: dict) -> dict:
    """What chooses and labels the RoIs of training images, but for their number, which an option
    of the cache sets, and for samplers that draw the same."""

    def chosen(stage: dict) -> dict:
        sampler = {k: v for k, v in stage["sampler"].items() if k not in ("type", "num")}
        return {"assigner": stage.get("assigner"), "sampler": sampler}

    rcnn = train_cfg.get("rcnn") or []
    rcnn = chosen(rcnn) if isinstance(rcnn, dict) else [chosen(stage) for stage in rcnn]
    return {"rpn_proposal": train_cfg.get("rpn_proposal"), "rcnn": rcnn}


def _image_steps(pipeline: list[dict] | None) -> list[dict]:
    """Those that change the image."""
    steps = pipeline or []
    return [step for step in steps if not any(word in step["type"] for word in ("Load", "Pack"))]


def _without(left_out: Sequence[str], part: Any, key: str = "", nones: bool = True) -> Any:
    """A part as JSON has it, without some keys, given alone or after the key that they are in, and
    unless ``nones`` without those that are None."""
    if isinstance(part, dict):
        names = [name for name in part if not {name, f"{key}.{name}"}.intersection(left_out)]
        names = [name for name in names if nones or part[name] is not None]
        return {name: _without(left_out, part[name], name, nones) for name in names}
    if isinstance(part, (list, tuple)):
        return [_without(left_out, item, key, nones) for item in part]
    return part


def check_options_on_features(options: Iterable[str]) -> None:
    """Raise a UserError if one of the options, dotted keys, is replaced by ``decoupled``."""
    for option in options:
        if option.startswith(_REPLACED):
            raise UserError(
                f"{option}: has no effect in a training on features, whose schedule is that of "
                "decoupled; set decoupled.* instead."
            )


def effective_part(cfg: Config) -> dict[str, Any]:
    """Return what of a config that :func:`train_on_features` has changed sets the result."""
    content = cfg.to_dict()
    loaders = [content.get(f"{split}_dataloader") or {} for split in ("train", "val")]
    for part, key in ((content, "model"), *((loader, "dataset") for loader in loaders)):
        part[key] = _without(_NOT_TRAINED, part.get(key))
    return content


def _checkpoint(given: str | None, cached: CacheDescription, folder: str) -> str:
    """The checkpoint that made the features, where it was, or else where the config says."""
    path = cached.checkpoint if os.path.isfile(cached.checkpoint) else given
    if path is None or not os.path.isfile(path):
        raise UserError(
            f"{folder}: the checkpoint that made its features, {cached.checkpoint}, is not there; "
            "say where it is by --cfg-options load_from=CHECKPOINT."
        )
    if sha256_of(path) != cached.checkpoint_sha256:
        raise UserError(
            f"{path}: is not the checkpoint that made the features in {folder}, which was "
            f"{cached.checkpoint}; give that one by --cfg-options load_from=CHECKPOINT."
        )
    same = given and os.path.isfile(given) and sha256_of(given) == cached.checkpoint_sha256
    if given is not None and not same:
        print_log(
            f"load_from: {given} is not used, since the features in {folder} are those of {path}, "
            "whose weights the training begins from.",
            "current",
            logging.WARNING,
        )
    return path
