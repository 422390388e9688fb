"""Time to set up frequency-aware sampling, beside MMEngine's and MMDetection's.

    python tools/dev/benchmarks/samplers.py
    python tools/dev/benchmarks/samplers.py --quick      # a tenth of the size

A dataset of the size of LVIS v1 is made by start_up.py: 100,000 images and 1.27 million instances
of 1,203 categories whose popularity falls off as a power law. Then, on the same loaded dataset and
in turns, a RepeatFactorSampler is set up beside MMEngine's ClassBalancedDataset, and a
CategoryAwareSampler beside MMDetection's ClassAwareSampler. What the dataset notes while it is
loaded, the labels of each image, is not set-up of a sampler.
"""

import argparse
import os
import tempfile

from mmdet.datasets.samplers import ClassAwareSampler
from mmengine.dataset import ClassBalancedDataset
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from side_by_side import Comparison, Target, compare, positive, set_threads, table
from start_up import write_annotations

from mmdet_eql.datasets import CategoryAwareSampler, LVISFormatDataset, RepeatFactorSampler
from mmdet_eql.utils.errors import exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=positive, default=100_000, help="default: %(default)s")
    parser.add_argument("--runs", type=positive, default=5, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="10,000 images and 3 runs")
    args = parser.parse_args()
    if args.quick:
        args.images, args.runs = 10_000, 3
    return args


@exit_on_user_error
def main() -> None:
    args = parse_args()
    set_threads(1)
    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # samplers tell what they make
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(folder, args.images)
    num_instances = len(dataset.instance_labels.labels)
    print(f"{len(dataset):,} images, {num_instances:,} instances, {args.runs} runs")
    print(table(measure(dataset, args.runs)))


def measure(dataset: LVISFormatDataset, runs: int) -> list[Comparison]:
    """Compare setting up each sampler with its rival, on a loaded dataset."""
    return compare(
        "repeat factor sampling",
        "set-up",
        lambda: RepeatFactorSampler(dataset, 1e-3, seed=0),
        {"ClassBalancedDataset": lambda: ClassBalancedDataset(dataset, oversample_thr=1e-3)},
        {"ClassBalancedDataset": Target(ratio=20.0)},
        repeats=runs,
        memory=False,
    ) + compare(
        "class-aware sampling",
        "set-up",
        lambda: CategoryAwareSampler(dataset, seed=0),
        {"ClassAwareSampler": lambda: ClassAwareSampler(dataset, seed=0)},
        {"ClassAwareSampler": Target(ratio=10.0)},
        repeats=runs,
        memory=False,
    )


def make_dataset(folder: str, num_images: int) -> LVISFormatDataset:
    path = os.path.join(folder, "annotations.json")
    write_annotations(path, num_images)
    return LVISFormatDataset(ann_file=path, data_prefix=dict(img=folder), annotation_cache=False)


if __name__ == "__main__":
    main()
