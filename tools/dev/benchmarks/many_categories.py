"""What grows with the number of categories, up to the 13,204 of V3Det.

The loss and the record of gradients, forward and backward on the 1,024 proposals of two images,
beside softmax cross-entropy and beside copying the logits once, which reads and writes each of them
as a loss must: the ratio to copying is the fraction of the memory's bandwidth that is reached.
Loading an annotation file of V3Det's size (183,354 images, 1.36 million boxes; quick: a tenth) and
setting up repeat factor sampling on it, beside MMDetection's.
"""

import json
import os
import shutil
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import ClassBalancedDataset
from mmengine.logging import MMLogger
from side_by_side import (
    NUMBERS_OF_CATEGORIES,
    Comparison,
    Point,
    Run,
    Target,
    Workload,
    compare,
    compare_runs,
    growth,
    held_memory,
    reported_by,
    start_of_peak,
)
from start_up import clocks

from mmdet_eql.engine.gradient_record_hook import gradient_sums
from mmdet_eql.losses import EqualizationLoss

PART = "many categories"
NUM_CATEGORIES, NUM_IMAGES, NUM_BOXES = 13_204, 183_354, 1_361_181
NUM_PROPOSALS = 1024


def measure(quick: bool) -> list[Comparison]:
    """Compare loss and gradient record at V3Det's categories, and start-up at its size."""
    works = {name: make_workload(name, NUM_CATEGORIES) for name in WORKLOADS}
    options = dict(repeats=3 if quick else 5)
    size = f"{NUM_PROPOSALS:,} proposals, {NUM_CATEGORIES:,} categories"
    copying = {"copying the logits": works["copying"]}
    comparisons = compare(
        PART, f"EQL, {size}", works["EQL"], {"softmax": works["softmax"], **copying}, **options
    )
    comparisons += compare(PART, f"gradient sums, {size}", works["record"], copying, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "annotations.json")
        share = 10 if quick else 1
        write_annotations(path, NUM_IMAGES // share, NUM_BOXES // share)
        comparisons += measure_start_up(path, os.path.join(folder, "cache"), 2 if quick else 3)
    return comparisons


def measure_growth(quick: bool) -> list[Point]:
    """Time of loss and gradient record for numbers of categories."""
    numbers = (*NUMBERS_OF_CATEGORIES, NUM_CATEGORIES)
    return growth(PART, make_workload, WORKLOADS, numbers, repeats=3 if quick else 7)


def make_workload(name: str, num_classes: int) -> Workload:
    """One of the workloads, on a quarter of foreground."""
    torch.manual_seed(0)
    logits = (torch.randn(NUM_PROPOSALS, num_classes) - 4).requires_grad_()
    labels = torch.randint(num_classes, (NUM_PROPOSALS,))
    labels[NUM_PROPOSALS // 4 :] = num_classes
    return WORKLOADS[name](logits, labels)


def eql_step(logits: torch.Tensor, labels: torch.Tensor) -> Workload:
    num_classes = logits.shape[1]
    loss = EqualizationLoss(num_classes)
    loss.set_class_frequency(torch.linspace(0, loss.lambda_ / 0.75, num_classes))
    return lambda: torch.autograd.grad(loss(logits, labels), logits)


def softmax_step(logits: torch.Tensor, labels: torch.Tensor) -> Workload:
    with_background = F.pad(logits.detach(), (0, 1)).requires_grad_()
    return lambda: torch.autograd.grad(F.cross_entropy(with_background, labels), with_background)


def gradient_record(logits: torch.Tensor, labels: torch.Tensor) -> Workload:
    gradient = logits.detach()
    return lambda: gradient_sums(gradient, labels, logits.shape[1])


def copying(logits: torch.Tensor, labels: torch.Tensor) -> Workload:
    source, target = logits.detach(), torch.empty_like(logits.detach())
    return lambda: target.copy_(source)


WORKLOADS = {
    "EQL": eql_step,
    "softmax": softmax_step,
    "record": gradient_record,
    "copying": copying,
}


def measure_start_up(path: str, cache: str, repeats: int) -> list[Comparison]:
    """Compare loading a file and setting up a sampler, in processes of their own."""
    reports: dict[str, list[dict]] = {"first": [], "cached": [], "V3DetDataset": []}
    for _ in range(repeats):
        shutil.rmtree(cache, ignore_errors=True)
        for name, of_name in reports.items():
            of_name.append(reported_by([sys.executable, __file__, name, path, cache]))
    if len({report["length"] for of_name in reports.values() for report in of_name}) > 1:
        raise RuntimeError("the samplers differ in length")

    def runs(name: str, quantity: str):
        rows = iter(reports[name])
        return lambda: Run(**next(rows)[quantity])

    comparisons = []
    for what, quantity, name, target in (
        ("loading, first", "load", "first", Target(ratio=3)),
        ("loading, from the cache", "load", "cached", Target(ratio=10)),
        ("setting up repeat factor sampling", "sampler", "cached", Target(ratio=20)),
    ):
        rival = {"V3DetDataset": runs("V3DetDataset", quantity)}
        targets = {"V3DetDataset": target}
        comparisons += compare_runs(PART, what, runs(name, quantity), rival, targets, repeats)
    return comparisons


def measure_here(name: str, path: str, cache: str) -> dict:
    """Load a dataset and set up its sampler in this process."""
    from mmdet.datasets import V3DetDataset

    from mmdet_eql.datasets import LVISFormatDataset, RepeatFactorSampler

    MMLogger.get_current_instance().setLevel("WARNING")
    folder = os.path.dirname(path)
    options = dict(ann_file=path, data_prefix=dict(img=folder), filter_cfg=dict(min_size=4))

    def load():
        if name == "V3DetDataset":
            return V3DetDataset(**options, label_file=os.path.join(folder, "names.txt"))
        return LVISFormatDataset(**options, annotation_cache=cache)

    def repeat(dataset) -> int:
        if name == "V3DetDataset":
            return len(ClassBalancedDataset(dataset, oversample_thr=1e-3))
        return int(np.ceil(RepeatFactorSampler(dataset, 1e-3, seed=0).repeat_factors).sum())

    dataset, load_costs = costs(load)
    length, sampler_costs = costs(lambda: repeat(dataset))
    return dict(load=load_costs, sampler=sampler_costs, length=length)


def costs(work) -> tuple[object, dict]:
    """What a function returns, and the time and the peak of memory that it takes."""
    before, start = start_of_peak(), clocks()
    result = work()
    wall, cpu = clocks() - start
    return result, dict(wall=wall, cpu=cpu, memory=held_memory("VmHWM") - before)


def write_annotations(path: str, num_images: int, num_boxes: int) -> None:
    """Write boxes as V3Det has them, its list of names, and a first image without content."""
    rng = np.random.default_rng(0)
    names = [f"category {number}" for number in range(1, NUM_CATEGORIES + 1)]
    popularity = 1 / np.arange(1, NUM_CATEGORIES + 1) ** 0.9
    labels = rng.choice(NUM_CATEGORIES, num_boxes, p=popularity / popularity.sum()) + 1
    images = np.sort(rng.integers(1, num_images + 1, num_boxes))
    boxes = np.round(rng.uniform(1, 300, (num_boxes, 4)), 2)
    folder = os.path.dirname(path)
    with open(os.path.join(folder, "names.txt"), "w") as file:
        file.write("\n".join(names))
    with open(path, "w") as file:
        file.write('{"categories": ')
        json.dump(
            [{"id": i, "name": name, "novel": False} for i, name in enumerate(names, 1)], file
        )
        file.write(', "images": [')
        for image in range(1, num_images + 1):
            name = f"images/n{image % NUM_CATEGORIES:08}/{image}.jpg"
            record = {"id": image, "file_name": name, "height": 600, "width": 800}
            file.write((", " if image > 1 else "") + json.dumps(record))
        file.write('], "annotations": [')
        rows = zip(images.tolist(), labels.tolist(), boxes.tolist(), strict=True)
        for number, (image, label, box) in enumerate(rows, 1):
            record = {"id": number, "image_id": image, "category_id": label, "bbox": box}
            record.update(area=round(box[2] * box[3], 2), iscrowd=0)
            file.write((", " if number > 1 else "") + json.dumps(record))
        file.write("]}")
    os.makedirs(os.path.join(folder, "images", f"n{1:08}"))
    open(os.path.join(folder, "images", f"n{1:08}", "1.jpg"), "w").close()


if __name__ == "__main__":  # as measure_start_up() calls it
    print(json.dumps(measure_here(*sys.argv[1:])))
