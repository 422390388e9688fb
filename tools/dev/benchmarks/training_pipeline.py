"""The pipeline of a training image with masks, from the file to the targets of the mask head.

An image of 640 x 480 pixels with 12 polygons is loaded, enlarged to 1067 x 800, flipped every
second time, packed, and its masks go to the training process (pickled, as a DataLoader worker does;
images take the same way with both loaders). LoadPolygonAnnotations beside MMDetection's
LoadAnnotations:

    to the training process    what a worker does
    with mask targets          and the targets of 128 RoIs, on the CPU
    targets against none       ours with targets, the rival without: on a GPU, which makes targets
                               from bitmaps in no time of the processor
"""

import copy
import os
import pickle
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import torch
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import mask_target
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from side_by_side import Comparison, Limit, Target, Workload, compare

import mmdet_eql  # noqa: F401 (registers its parts)

RIVAL = "LoadAnnotations"
HEIGHT, WIDTH = 480, 640
NUM_MASKS = 12
#: Foreground RoIs of an image: a quarter of 512 sampled proposals.
NUM_ROIS = 128


def measure(quick: bool) -> list[Comparison]:
    """Compare the loaders, without targets, with them, and with those of ours alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_image(folder)
        loaded = {name: make_load(name, path) for name in ("LoadPolygonAnnotations", RIVAL)}
        bytes_ = [handed_over(load()) / 1e6 for load in loaded.values()]
        loads = {name: lambda load=load: (load(), load()) for name, load in loaded.items()}
        whole = {name: with_targets(load) for name, load in loaded.items()}
        size = f"2 images, {NUM_MASKS} polygons each"
        sent = f"({bytes_[0]:.1f} : {bytes_[1]:.1f} MB an image)"
        comparisons = []
        for what, ours, rival, target in (
            (f"to the training process {sent}", loads, loads, Target(2.7)),
            (f"with {NUM_ROIS} mask targets each", whole, whole, Target(2)),
            (f"{NUM_ROIS} mask targets each : none", whole, loads, Target(2)),
        ):
            comparisons += compare(
                "training pipeline",
                f"{size}, {what}",
                ours["LoadPolygonAnnotations"],
                {RIVAL: rival[RIVAL]},
                {RIVAL: target},
                repeats=3 if quick else 7,
                limit=Limit(4e6 * bytes_[0]),  # two images are written and read
            )
        return comparisons


def write_image(folder: str) -> str:
    """A blurred noise image, as a JPEG file; return its path."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = os.path.join(folder, "image.jpg")
    cv2.imwrite(path, cv2.GaussianBlur(noise, (5, 5), 2))
    return path


def make_instances() -> list[dict]:
    """Smooth outlines of 40 points, from 10 to 100 pixels in radius."""
    rng, angle = np.random.default_rng(0), np.arange(40) / 40 * 2 * np.pi
    instances = []
    for label in range(NUM_MASKS):
        radius = np.exp(rng.uniform(np.log(10), np.log(100)))
        length = radius * (0.8 + 0.2 * np.cos(3 * angle + rng.uniform(0, 2 * np.pi)))
        center = rng.uniform(radius, [WIDTH - radius, HEIGHT - radius])
        points = center + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        instances.append(
            dict(
                ignore_flag=0,
                bbox=[*points.min(axis=0).tolist(), *points.max(axis=0).tolist()],
                bbox_label=label,
                mask=[points.ravel().tolist()],
            )
        )
    return instances


def make_load(loader: str, path: str) -> Callable[[], dict]:
    """The pipeline of the configs with a loader, flipping every second image."""
    init_default_scope("mmdet")
    instances = make_instances()
    load, *moves = [
        [TRANSFORMS.build(step) for step in steps]
        for steps in (
            [dict(type="LoadVerifiedImage"), dict(type=loader, with_bbox=True, with_mask=True)],
            *(
                [
                    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
                    dict(type="RandomFlip", prob=prob),
                    dict(type="PackDetInputs"),
                ]
                for prob in (0.0, 1.0)
            ),
        )
    ]

    def next_image() -> dict:
        results = dict(img_path=path, height=HEIGHT, width=WIDTH, img_id=1)
        results["instances"] = copy.deepcopy(instances)
        for step in (*load, *moves[0]):
            results = step(results)
        moves.reverse()
        instances_ = results["data_samples"].gt_instances
        instances_.masks = pickle.loads(ForkingPickler.dumps(instances_.masks))
        return results

    return next_image


def with_targets(load: Callable[[], dict]) -> Workload:
    """Load two images and make the targets of RoIs near their boxes."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(NUM_MASKS, (NUM_ROIS,), generator=generator)
    shift = 0.2 * torch.rand(NUM_ROIS, 4, generator=generator) - 0.1

    def load_and_make_targets() -> torch.Tensor:
        images = [load()["data_samples"].gt_instances for _ in range(2)]
        rois = []
        for image in images:
            boxes = image.bboxes.tensor[indices]
            rois.append(boxes + shift * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2))
        masks = [image.masks for image in images]
        return mask_target(rois, [indices, indices], masks, ConfigDict(mask_size=28))

    return load_and_make_targets


def handed_over(results: dict) -> int:
    """Bytes of the image and of its masks."""
    masks = results["data_samples"].gt_instances.masks
    return results["inputs"].numel() + len(ForkingPickler.dumps(masks))
