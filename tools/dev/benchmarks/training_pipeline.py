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
import itertools
import os
import pickle
import tempfile
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import torch
from loading import HEIGHT, WIDTH, outline
from mmdet.structures.mask import mask_target
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from side_by_side import Comparison, Limit, Workload, compare

import mmdet_eql  # noqa: F401 (registers its parts)

RIVAL = "LoadAnnotations"
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
        for what, ours, rival, least in (
            (f"to the training process {sent}", loads, loads, 2.7),
            (f"with {NUM_ROIS} mask targets each", whole, whole, 2),
            (f"{NUM_ROIS} mask targets each : none", whole, loads, 2),
        ):
            comparisons += compare(
                "training pipeline",
                f"{size}, {what}",
                {"ours": ours["LoadPolygonAnnotations"], RIVAL: rival[RIVAL]},
                {RIVAL: least},
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
    """Ellipses of 40 points, from 20 to 200 pixels in width and in height."""
    rng, instances = np.random.default_rng(0), []
    for label in range(NUM_MASKS):
        sides = np.exp(rng.uniform(np.log(20), np.log(200), 2))
        corner = rng.uniform(0, [WIDTH, HEIGHT] - sides)
        mask = outline([*corner, *sides], num_points=40)
        box = [*corner, *(corner + sides)]
        instances.append(dict(ignore_flag=0, bbox=box, bbox_label=label, mask=[mask]))
    return instances


def make_load(loader: str, path: str) -> Callable[[], dict]:
    """The pipeline of the configs with a loader, flipping every second image."""
    init_default_scope("mmdet")
    instances = make_instances()
    unflipped, flipped = (
        Compose(
            [
                dict(type="LoadVerifiedImage"),
                dict(type=loader, with_bbox=True, with_mask=True),
                dict(type="Resize", scale=(1333, 800), keep_ratio=True),
                dict(type="RandomFlip", prob=prob),
                dict(type="PackDetInputs"),
            ]
        )
        for prob in (0.0, 1.0)
    )
    pipelines = itertools.cycle([unflipped, flipped])

    def next_image() -> dict:
        results = dict(img_path=path, height=HEIGHT, width=WIDTH, img_id=1)
        results = next(pipelines)({**results, "instances": copy.deepcopy(instances)})
        truth = results["data_samples"].gt_instances
        truth.masks = pickle.loads(ForkingPickler.dumps(truth.masks))
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
