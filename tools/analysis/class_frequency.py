"""Report the long tail of an annotation file in COCO or LVIS format.

    python tools/analysis/class_frequency.py data/lvis_v1/annotations/lvis_v1_train.json --out a.png

Prints the frequency groups, the tail ratio at several values of lambda, and what repeat factor
sampling and class-aware sampling make of the set, and draws them.
"""

import argparse
import logging
import math
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import run_tool, tool_parser

#: The EQL paper's ablation of lambda (section 5).
LAMBDAS = [0.176e-3, 0.8e-3, 1.5e-3, 1.76e-3, 2e-3, 3e-3, 5e-3]


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("ann_file", help="annotation file")
    tail = parser.add_mutually_exclusive_group()
    tail.add_argument(
        "--lambda", dest="lambda_", type=float, default=1.76e-3, help="default: %(default)s"
    )
    tail.add_argument(
        "--tail-ratio", type=float, help="choose lambda so that the tail holds this share of labels"
    )
    parser.add_argument("--repeat-threshold", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--out", help="PNG, PDF or SVG file to draw")
    return parser.parse_args()


def report(args: argparse.Namespace) -> None:
    from mmengine.logging import MMLogger

    from mmdet_eql.analysis.class_frequency_report import (
        draw_epochs,
        format_report,
        plot_report,
        read_annotated_images,
    )
    from mmdet_eql.datasets import CategoryAwareSampler, RepeatFactorSampler
    from mmdet_eql.losses.tail_weighting import lambda_for_tail_ratio
    from mmdet_eql.utils.errors import UserError

    if not 0 <= args.lambda_ < math.inf:
        raise UserError(f"--lambda is {args.lambda_}; give a frequency of at least 0.")
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    images = read_annotated_images(args.ann_file)
    samplers = {
        "each image once": RepeatFactorSampler(images, 0, seed=0),
        f"repeat factors, t = {args.repeat_threshold:g}": RepeatFactorSampler(
            images, args.repeat_threshold, seed=0
        ),
        "class-aware": CategoryAwareSampler(images, seed=0),
    }
    epochs = draw_epochs(images, samplers)
    if args.tail_ratio is not None:
        frequency = images.class_frequency.frequency
        args.lambda_ = lambda_for_tail_ratio(frequency, args.tail_ratio)
    print(format_report(images, [args.lambda_, *LAMBDAS], epochs))
    if args.out:
        plot_report(images, args.lambda_, epochs, args.out)
        print(f"\nDrawn to {args.out}")


if __name__ == "__main__":
    run_tool(report, parse_args())
