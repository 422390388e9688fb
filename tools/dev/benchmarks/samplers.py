"""Setting up frequency-aware sampling, beside MMEngine's and MMDetection's.

A dataset of the size of LVIS v1 is made by start_up.py: 100,000 images (quick: 10,000) and 1.27
million instances of 1,203 categories whose popularity falls off as a power law. Then, on the same
loaded dataset, a RepeatFactorSampler is set up beside MMEngine's ClassBalancedDataset, and a
CategoryAwareSampler beside MMDetection's ClassAwareSampler. What the dataset notes while it is
loaded, the labels of each image, is not set-up of a sampler.
"""

import os
import tempfile

from mmdet.datasets.samplers import ClassAwareSampler
from mmengine.dataset import ClassBalancedDataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from side_by_side import Comparison, Target, compare
from start_up import write_annotations

from mmdet_eql.datasets import CategoryAwareSampler, LVISFormatDataset, RepeatFactorSampler


def measure(quick: bool) -> list[Comparison]:
    """Compare setting up each sampler with its rival, on a loaded dataset."""
    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # samplers log what they make
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(folder, 10_000 if quick else 100_000)
    size = f"set-up, {len(dataset):,} images"
    options = dict(repeats=3 if quick else 5, memory=False)
    return compare(
        "repeat factor sampling",
        size,
        lambda: RepeatFactorSampler(dataset, 1e-3, seed=0),
        {"ClassBalancedDataset": lambda: ClassBalancedDataset(dataset, oversample_thr=1e-3)},
        {"ClassBalancedDataset": Target(ratio=20.0)},
        **options,
    ) + compare(
        "class-aware sampling",
        size,
        lambda: CategoryAwareSampler(dataset, seed=0),
        {"ClassAwareSampler": lambda: ClassAwareSampler(dataset, seed=0)},
        {"ClassAwareSampler": Target(ratio=10.0)},
        **options,
    )


def make_dataset(folder: str, num_images: int) -> LVISFormatDataset:
    path = os.path.join(folder, "annotations.json")
    write_annotations(path, num_images)
    return LVISFormatDataset(ann_file=path, data_prefix=dict(img=folder), annotation_cache=False)
