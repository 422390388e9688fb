"""Runs a frozen detector once over the training and the validation set and caches its features.

The shards of a split are dealt out to the ranks; those that are there already stay. Images of one
size go through the detector together: none is padded to the size of another, so that the features
depend neither on the batch nor on the ranks.
"""

import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from logging import Logger

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mmdet_eql.decoupled.feature_cache import (
    CacheDescription,
    ImageFeatures,
    SplitDescription,
    begin_cache,
    sha256_of,
    write_shard,
)
from mmdet_eql.decoupled.feature_dataset import annotation_checksum
from mmdet_eql.decoupled.frozen_detector import FrozenDetector
from mmdet_eql.engine.checkpoint import address_of, cache_path
from mmdet_eql.engine.class_list_hook import ClassListHook, bare_model
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.heads.roi_head import stages_of
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import hold_folder


def cache_features(
    cfg: Config,
    folder: str | os.PathLike,
    dtype: str = "float16",
    rois: int | None = None,
    flips: bool = False,
    images_per_shard: int = 250,
) -> None:
    """Fill a feature cache, or go on with one that was broken off.

    Args:
        cfg (Config): The config of a training, with the checkpoint in ``load_from``.
        folder (str | os.PathLike): The cache.
        dtype (str): ``"float16"`` or ``"float32"``.
        rois (int, optional): RoIs to sample in a training image, by default as in the config.
        flips (bool): Whether to cache the training images mirrored, too.
        images_per_shard (int): Images of a shard.

    Raises:
        UserError: If the detector or its checkpoint cannot be used, ``folder`` holds other
            features, or there is no room for them.
    """
    if rois is not None:
        for stage in stages_of((cfg.model.get("train_cfg") or {}).get("rcnn") or []):
            stage.sampler.num = rois
    configs = split_configs(cfg, flips)
    runner = build_runner(cfg)
    runner.load_or_resume()
    model = bare_model(runner)
    detector = FrozenDetector(model, dtype)
    datasets = {split: DATASETS.build(config) for split, config in configs.items()}
    classes = datasets["train"].metainfo["classes"]
    counts = class_frequency_of(datasets["train"]).instance_count.tolist()
    check_classes(runner, model, classes)
    for head in stages_of(model.roi_head.bbox_head):
        head.num_classes = len(classes)  # the label of background, in labels of this training set
    checkpoint = os.path.abspath(cache_path(address_of(cfg.load_from)))
    description = CacheDescription(
        classes=list(classes),
        stages=detector.stages,
        dim=detector.dim,
        dtype=dtype,
        model=cfg.model.to_dict(),
        checkpoint_sha256=sha256_of(checkpoint),
        checkpoint=checkpoint,
        config=cfg.filename,
        splits={
            split: SplitDescription(
                ann_file=dataset.ann_file,
                images=len(dataset),
                rois_per_image=_rois_per_image(cfg.model, split),
                pipeline=[dict(step) for step in configs[split]["pipeline"]],
                images_per_shard=images_per_shard,
                instance_count=[] if split == "val" else counts,
                annotations=None if split == "val" else annotation_checksum(dataset),
            )
            for split, dataset in datasets.items()
        },
    )
    with hold_folder(folder, "choose another --out") if is_main_process() else nullcontext():
        if is_main_process():
            begin_cache(folder, description)
            _check_room(folder, description, runner.logger)
        barrier()
        for split, dataset in datasets.items():
            start = time.monotonic()
            loader = cfg.val_dataloader if split == "val" else cfg.train_dataloader
            missing = description.missing_shards(folder, split)
            barrier()  # no rank writes before all have looked
            own = missing[get_rank() :: get_world_size()]
            for number, images in extract(detector, dataset, description, split, own, loader):
                write_shard(folder, split, number, images, dtype)
            barrier()
            seconds = time.monotonic() - start
            number = sum(len(description.splits[split].items(shard)) for shard in missing)
            runner.logger.info(f"{split}: features of {number:,} images in {seconds:,.0f} s")


def extract(
    detector: FrozenDetector,
    dataset: BaseDataset,
    description: CacheDescription,
    split: str,
    shards: Iterable[int],
    loader: dict,
) -> Iterator[tuple[int, list[ImageFeatures]]]:
    """Yield number and images of each of the ``shards`` of a split, with a progress bar.

    ``batch_size`` and ``num_workers`` are those of ``loader``, a config of a dataloader.
    """
    items = {number: description.splits[split].items(number) for number in shards}
    features_of = detector.val_features if split == "val" else detector.train_features
    loaded = DataLoader(
        _Numbered(dataset),
        batch_sampler=_batches_of_a_size(dataset, items.values(), loader.get("batch_size", 1)),
        num_workers=loader.get("num_workers", 0),
        collate_fn=list,
    )
    batches = iter(loaded)
    with tqdm(
        desc=split,
        total=sum(map(len, items.values())),
        unit="image",
        mininterval=1 if sys.stderr.isatty() else 60,  # in a log file, a line a minute
        disable=not is_main_process(),
    ) as bar:
        for number, shard in items.items():
            images = {}
            while len(images) < len(shard):
                batch = next(batches)
                found = {item: data for item, data in batch if data is not None}
                if found:
                    data = pseudo_collate(list(found.values()))
                    data = detector.detector.data_preprocessor(data, False)
                    features = features_of(data["inputs"], data["data_samples"])
                    images.update(zip(found, features, strict=True))
                for item in {item for item, _ in batch} - found.keys():
                    images[item] = without_rois(dataset.get_data_info(item), split, description)
                bar.update(len(batch))
            yield number, [images[item] for item in shard]


def without_rois(info: dict, split: str, description: CacheDescription) -> ImageFeatures:
    """Return what is cached of an image that the pipeline drops."""
    stages, metainfo = description.stages, {"img_id": info["img_id"]}
    features, rois = (np.zeros((0, width), np.float16) for width in (description.dim, 4))
    labels = [] if split == "val" else [np.zeros(0, np.int8)] * stages
    return ImageFeatures(metainfo, [features] * stages, [rois] * stages, labels)


class _Numbered(Dataset):
    """Items with their numbers; None for those that the pipeline drops."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, item: int) -> tuple[int, dict | None]:
        # Not dataset[item], which would give another image for one that is dropped.
        return item, self.dataset.prepare_data(item)


def _batches_of_a_size(
    dataset: BaseDataset, shards: Iterable[range], batch_size: int
) -> Iterator[list[int]]:
    def size(item: int) -> tuple[int, int]:
        info = dataset.get_data_info(item)
        return (info["height"], info["width"]) if "height" in info else (item, -1)

    for shard in shards:
        sizes = {item: size(item) for item in shard}
        for _, group in itertools.groupby(sorted(shard, key=sizes.get), key=sizes.get):
            group = list(group)
            yield from (group[i : i + batch_size] for i in range(0, len(group), batch_size))


def split_configs(cfg: Config, flips: bool) -> dict[str, ConfigDict]:
    """Return the datasets to cache: those of a config without wrappers, and for training with the
    steps that load and pack its images, and those of the validation in between.

    Raises:
        UserError: If a dataset is missing or made of several.
    """
    for split in ("train", "val"):
        if not cfg.get(f"{split}_dataloader"):
            raise UserError(
                f"{cfg.filename}: has no {split}_dataloader; add it, since features are cached of "
                "training and validation images."
            )
    train, steps = _without_wrappers(cfg.train_dataloader.dataset, "train_dataloader.dataset")
    val, val_steps = _without_wrappers(cfg.val_dataloader.dataset, "val_dataloader.dataset")
    load = [step for step in steps if _name(step).startswith("Load")]
    # Semantic maps are targets of a loss.
    load = [ConfigDict(step, with_seg=False) if "with_seg" in step else step for step in load]
    between = [step for step in val_steps if not _name(step).startswith(("Load", "Pack"))]
    flip = [ConfigDict(type="RandomFlip", prob=1.0)]
    pack = [step for step in steps if _name(step).startswith(("FilterAnnotations", "Pack"))]
    configs = {"train": ConfigDict(train, pipeline=[*load, *between, *pack])}
    if flips:
        configs["train_flipped"] = ConfigDict(train, pipeline=[*load, *between, *flip, *pack])
    configs["val"] = ConfigDict(val, pipeline=val_steps)
    return configs


def _without_wrappers(dataset: ConfigDict, key: str) -> tuple[ConfigDict, list[ConfigDict]]:
    """The dataset within wrappers, and the steps of all."""
    steps = list(dataset.get("pipeline") or [])
    if "datasets" in dataset:
        raise UserError(
            f"{key}: {_name(dataset)} joins several datasets, and features are cached of one; join "
            "their annotation files."
        )
    if "dataset" in dataset:
        inner, first = _without_wrappers(dataset.dataset, f"{key}.dataset")
        return inner, first + steps
    return dataset, steps


def _name(part: ConfigDict) -> str:
    kind = part.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _rois_per_image(model: ConfigDict, split: str) -> int:
    if split == "val":
        return model.test_cfg.rpn.max_per_img
    return max(stage.sampler.num for stage in stages_of(model.train_cfg.rcnn))


def check_classes(runner: Runner, model: nn.Module, classes: Sequence[str]) -> None:
    """Compare the classes of the training set with those of the checkpoint in a runner.

    Raises:
        UserError: If they differ, and the detector has boxes or masks for each class.
    """
    hook = next(hook for hook in runner.hooks if isinstance(hook, ClassListHook))
    heads = stages_of(model.roi_head.bbox_head)
    as_many = all(head.num_classes == len(classes) for head in heads)
    # A checkpoint without names has had its warning.
    if hook.classes == tuple(classes) or (hook.classes is None and as_many):
        return
    specific = [] if all(head.reg_class_agnostic for head in heads) else ["boxes"]
    masks = stages_of(getattr(model.roi_head, "mask_head", None) or [])
    if not all(getattr(head, "class_agnostic", True) for head in masks):
        specific.append("masks")
    problem = f"{runner.cfg.load_from}: was trained on other classes than the training set has, or "
    problem += "on the same in another order"
    if specific:
        raise UserError(
            f"{problem}, and its {' and '.join(specific)} are class-specific; give a checkpoint "
            "that was trained on these classes, or name its classes in "
            "train_dataloader.dataset.metainfo.classes."
        )
    runner.logger.warning(f"{problem}; its classifier is of no use, its features are.")


def _check_room(folder: str | os.PathLike, description: CacheDescription, logger: Logger) -> None:
    """Log the size of what is missing; raise a UserError if it is more than what is free."""
    size, lines = 0, []
    for name, split in description.splits.items():
        missing = description.missing_shards(folder, name)
        number = sum(len(split.items(shard)) for shard in missing)
        size += number * description.image_bytes(name)
        done = f" ({split.images - number:,} more are there)" if number < split.images else ""
        lines.append(f"{name}: {number:,} images{done} x {split.rois_per_image} RoIs")
    free = shutil.disk_usage(folder).free
    logger.info(
        f"{'; '.join(lines)}; {description.stages} stage(s) x {description.dim} features in "
        f"{description.dtype}: at most {size / 1e6:,.0f} MB in {folder}, {free / 1e6:,.0f} are free"
    )
    if size > free:
        raise UserError(
            f"{folder}: the features take up to {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are "
            "free; free some space, or give another --out or fewer --rois."
        )
