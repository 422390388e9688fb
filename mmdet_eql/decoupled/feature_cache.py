"""The feature cache: the input of a frozen detector's classifier for each RoI, in files.

    FOLDER/
      features.json       what the features are made of: CacheDescription
      train/00000/        a shard: the first 250 images, in the order of the dataset
        image_ids.npy     int64 or text (I,)
        metainfo.json     of each image: img_id, ori_shape, img_shape, scale_factor, flip, file_size
        features_0.npy    float16 or float32 (N, D), the input of fc_cls in stage 0
        rois_0.npy        float32 (N, 4), x1, y1, x2, y2 in pixels of the network's input
        labels_0.npy      int32 (N,), C is background; not in val
        offsets_0.npy     int64 (I + 1,), the rows of image i are offsets[i]:offsets[i + 1]
        features_1.npy    likewise for each further stage of a cascade
      train/00001/ ...
      train_flipped/      the same images mirrored, if asked for
      val/

Item i of a split is item i of its dataset. A shard gets its name when it is complete. Image-level
labels and class frequencies are not here; they stay with the dataset.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmdet_eql.utils.differences import first_difference
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import write_text

FORMAT = 1
#: Fields that may differ between two runs that fill one cache.
_PLACES = ("config", "checkpoint")
#: What is kept of the metainfo of an image, and the bytes of its file.
METAINFO = ("img_id", "ori_shape", "img_shape", "scale_factor", "flip", "file_size")


@dataclass
class SplitDescription:
    """One split of a cache.

    Args:
        ann_file (str): Annotation file of its dataset.
        images (int): Number of images.
        rois_per_image (int): Largest number of RoIs of an image in one stage.
        pipeline (list[dict]): Steps that load the images.
        images_per_shard (int): Images of a shard; the last shard may have fewer.
        instance_count (list[int]): Annotated instances of each class in the training set; empty
            in validation.
        annotations (int, optional): Checksum of their boxes and labels; None if unknown.
    """

    ann_file: str
    images: int
    rois_per_image: int
    pipeline: list[dict]
    images_per_shard: int = 250
    instance_count: list[int] = field(default_factory=list)
    annotations: int | None = None

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.images_per_shard)

    def items(self, shard: int) -> range:
        """Return the items of the dataset that a shard holds."""
        start = shard * self.images_per_shard
        return range(start, min(start + self.images_per_shard, self.images))


@dataclass
class CacheDescription:
    """What the features of a cache are made of: the content of ``features.json``.

    Args:
        classes (list[str]): The class of each label; background is ``len(classes)``.
        stages (int): Number of stages of the RoI head, 1 without a cascade.
        dim (int): D, features of a RoI.
        dtype (str): ``"float16"`` or ``"float32"``.
        model (dict): Config of the detector.
        checkpoint_sha256 (str): Digest of the checkpoint file.
        splits (dict[str, SplitDescription]): ``"train"``, ``"val"`` and maybe ``"train_flipped"``.
        checkpoint, config (str): Paths of the checkpoint and of the config.
        format (int): Version of the format.
    """

    classes: list[str]
    stages: int
    dim: int
    dtype: str
    model: dict
    checkpoint_sha256: str
    splits: dict[str, SplitDescription]
    checkpoint: str = ""
    config: str = ""
    format: int = FORMAT

    def image_bytes(self, split: str) -> int:
        """Return the size in bytes of an image with the largest number of RoIs."""
        row = self.dim * np.dtype(self.dtype).itemsize + 16 + (0 if split == "val" else 4)
        return self.splits[split].rois_per_image * row * self.stages

    def missing_shards(self, folder: str | os.PathLike, split: str) -> list[int]:
        """Return the numbers of the shards of a split that a folder does not hold yet."""
        numbers = range(self.splits[split].num_shards)
        return [number for number in numbers if not _shard(folder, split, number).is_dir()]


@dataclass
class ImageFeatures:
    """The RoIs of an image. A list has one entry per stage, with n RoIs.

    Args:
        metainfo (dict): ``img_id`` and, unless there are no RoIs, the other keys of
            ``metainfo.json``.
        features (list[np.ndarray]): Floats of shape (n, D).
        rois (list[np.ndarray]): Floats of shape (n, 4).
        labels (list[np.ndarray]): Integers of shape (n,); no stages in validation.
    """

    metainfo: dict[str, Any]
    features: list[np.ndarray] = field(default_factory=list)
    rois: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)


def begin_cache(folder: str | os.PathLike, description: CacheDescription) -> None:
    """Write ``features.json``, unless the folder has the same one or shards of another.

    Raises:
        UserError: If the folder holds features that are made of something else.
    """
    path = Path(folder, "features.json")
    wanted = json.loads(json.dumps(asdict(description), default=str))
    if path.exists():
        existing = asdict(read_description(folder))
        for place in _PLACES:
            existing[place] = wanted[place]
        for name, split in existing["splits"].items():
            if split["annotations"] is None:  # of an earlier version
                split["annotations"] = wanted["splits"].get(name, {}).get("annotations")
        difference = first_difference(existing, wanted)
        if difference is None:
            return
        if _has_shards(folder, existing["splits"]):
            key, there, now = difference
            raise UserError(
                f"{path}: holds other features: {key} is {there!r} there and {now!r} now; give "
                "another --out, or the options that these features were made with."
            )
    elif _has_shards(folder, wanted["splits"]):
        raise UserError(
            f"{folder}: holds features, but no features.json that says what they are made of; "
            "give another --out, or remove them."
        )
    write_text(path, json.dumps(wanted, indent=1), "choose another --out")


def read_description(folder: str | os.PathLike) -> CacheDescription:
    """Read ``features.json``; a UserError if there is none, or one of another format."""
    path = Path(folder, "features.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} instead of {FORMAT}")
        splits = {name: SplitDescription(**split) for name, split in content["splits"].items()}
        return CacheDescription(**{**content, "splits": splits})
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; make the features by "
            f"`python tools/cache_features.py CONFIG CHECKPOINT --out {folder}`."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: is not the description of a feature cache ({error}); make the features anew "
            "in another folder."
        ) from None


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, computed once until the file changes."""
    status = os.stat(path)
    return _sha256_of(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_of(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_shard(
    folder: str | os.PathLike,
    split: str,
    number: int,
    images: Sequence[ImageFeatures],
    dtype: str = "float16",
) -> None:
    """Write a shard whole or not at all.

    Raises:
        UserError: If a feature is not finite in this ``dtype``, or the system refuses to write.
    """
    shard = _shard(folder, split, number)
    unfinished = shard.with_name(f".{shard.name}.tmp")
    arrays = dict(_arrays(images, dtype))
    metainfo = [{key: image.metainfo.get(key) for key in METAINFO} for image in images]
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", array)
        Path(unfinished, "metainfo.json").write_text(json.dumps(metainfo), encoding="utf-8")
        unfinished.rename(shard)
    except OSError as error:
        raise UserError(
            f"{shard}: cannot be written ({error.strerror or error}); free some space and run the "
            "same command again, which goes on from here."
        ) from None


class FeatureSplit:
    """One split of a feature cache, mapped into memory; its length is the number of its images.

    Args:
        folder (str | os.PathLike): What ``tools/cache_features.py`` has made.
        split (str): ``"train"``, ``"train_flipped"`` or ``"val"``.

    Attributes:
        description (CacheDescription): What the features are made of.
        image_ids (np.ndarray): Ids of the images, int64 or text of shape (I,).
        counts (list[np.ndarray]): Rows of each image in each stage, int64 of shape (I,).

    Raises:
        UserError: If there is no such split, or not all of it.

    Example:
        >>> features = FeatureSplit("work_dirs/features", "train")  # doctest: +SKIP
        >>> features.batch([3, 7])["features_0"].shape  # doctest: +SKIP
        (1024, 1024)
    """

    def __init__(self, folder: str | os.PathLike, split: str = "train") -> None:
        self.folder, self.split = Path(folder), split
        self.description = read_description(folder)
        if split not in self.description.splits:
            raise UserError(
                f"{folder}: has no split {split!r}, but {', '.join(self.description.splits)}; "
                "make it by `python tools/cache_features.py` in another folder."
            )
        missing = self.description.missing_shards(folder, split)
        self._per_shard = self.description.splits[split].images_per_shard
        num_shards = self.description.splits[split].num_shards
        if missing:
            raise UserError(
                f"{folder}: {len(missing):,} of {num_shards:,} shards of {split} are missing; run "
                "the same `python tools/cache_features.py` again, which goes on where it stopped."
            )
        kinds = ("features", "rois") if split == "val" else ("features", "rois", "labels")
        stages = range(self.description.stages)
        self._stage_of = {f"{kind}_{stage}": stage for stage in stages for kind in kinds}
        self._maps: dict[int, dict[str, np.ndarray]] = {}
        shards = range(num_shards)
        self.image_ids = np.concatenate([self._load(shard, "image_ids") for shard in shards])
        self._offsets = [
            [self._load(shard, f"offsets_{stage}") for shard in shards] for stage in stages
        ]
        self.counts = [np.concatenate(list(map(np.diff, offsets))) for offsets in self._offsets]

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, item: int) -> dict[str, np.ndarray]:
        """Return the rows of an image as views of the files: ``features_0`` (n, D), ``rois_0``
        (n, 4), ``labels_0`` (n,) where there are labels, and likewise of further stages."""
        shard, position = divmod(item, self._per_shard)
        maps = self._maps.get(shard)
        if maps is None:
            maps = {name: self._load(shard, name, mmap_mode="r") for name in self._stage_of}
            self._maps[shard] = maps
        bounds = [offsets[shard][position : position + 2] for offsets in self._offsets]
        return {name: rows[slice(*bounds[self._stage_of[name]])] for name, rows in maps.items()}

    def batch(self, items: Iterable[int]) -> dict[str, np.ndarray]:
        """Return copies of the rows of several images, one after the other as in :meth:`rows`, and
        their numbers as ``counts_0``, ``counts_1`` and so on, int64."""
        items = [int(item) for item in items]
        rows = [self.rows(item) for item in items]
        batch = {name: np.concatenate([image[name] for image in rows]) for name in self._stage_of}
        return batch | {f"counts_{k}": counts[items] for k, counts in enumerate(self.counts)}

    @cached_property
    def metainfo(self) -> list[dict[str, Any]]:
        """``img_id``, ``ori_shape``, ``img_shape``, ``scale_factor`` and ``flip`` of each image, as
        the ``predict_by_feat`` of a box head takes them, and ``file_size`` in bytes or None."""
        shards = range(self.description.splits[self.split].num_shards)
        paths = [_shard(self.folder, self.split, shard) / "metainfo.json" for shard in shards]
        images = [image for path in paths for image in json.loads(path.read_text("utf-8"))]
        return [
            {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in image.items()
            }
            for image in images
        ]

    def _load(self, shard: int, name: str, mmap_mode: str | None = None) -> np.ndarray:
        path = _shard(self.folder, self.split, shard) / f"{name}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode=mmap_mode))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); remove its folder and run "
                "`python tools/cache_features.py` again, which makes it anew."
            ) from None


def _has_shards(folder: str | os.PathLike, splits: Iterable[str]) -> bool:
    return any(any(Path(folder, split).glob("[0-9]*")) for split in splits)


def _shard(folder: str | os.PathLike, split: str, number: int) -> Path:
    return Path(folder, split, f"{number:05d}")


def _arrays(images: Sequence[ImageFeatures], dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and content of each array of a shard."""
    image_ids = np.asarray([image.metainfo["img_id"] for image in images])
    yield "image_ids", image_ids
    for stage in range(len(images[0].features)):
        parts = [image.features[stage] for image in images]
        with np.errstate(over="ignore"):
            features = np.concatenate(parts).astype(dtype, copy=False)
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        if not np.isfinite(features).all():
            row = np.isfinite(features).all(axis=1).argmin()
            image = image_ids[np.searchsorted(offsets, row, side="right") - 1]
            raise UserError(
                f"image {image}: a feature is not finite in {dtype}; use --dtype float32, or "
                "another checkpoint if it is that already."
            )
        yield f"features_{stage}", features
        yield f"offsets_{stage}", offsets
        rois = np.concatenate([image.rois[stage] for image in images])
        yield f"rois_{stage}", rois.astype(np.float32, copy=False)
        if images[0].labels:
            labels = np.concatenate([image.labels[stage] for image in images])
            yield f"labels_{stage}", labels.astype(np.int32, copy=False)
