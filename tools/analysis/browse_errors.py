"""Look at what a detector makes of a category: hits, misses, false alarms, confusions.

    python tools/analysis/browse_errors.py RESULTS.bbox.json lvis_v1_val.json \\
        --images data/lvis_v1 --category gravestone --out errors.html

RESULTS.bbox.json is what a test writes with

    --cfg-options test_evaluator.outfile_prefix=RESULTS

The page holds its pictures and opens from disk. Only images count that are verified to contain the
category or not to; in COCO files these are all.
"""

import argparse
import os.path as osp
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import positive, run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("results", help="result file of boxes")
    parser.add_argument("ann_file", help="annotation file in LVIS or COCO format")
    parser.add_argument("--category", required=True, help="name of the category")
    parser.add_argument(
        "--images", required=True, help="folder of the images, as data_root in the config"
    )
    parser.add_argument("--out", default="errors.html", help="page (default: %(default)s)")
    parser.add_argument("--iou-thr", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument(
        "--score-thr", type=float, default=0.05, help="lowest score (default: %(default)s)"
    )
    parser.add_argument(
        "--max-cases", type=positive, default=60, help="pictures of a kind (default: %(default)s)"
    )
    return parser.parse_args()


def browse(args: argparse.Namespace) -> None:
    from mmdet_eql.analysis.category_errors import find_category, find_errors
    from mmdet_eql.analysis.error_page import write_error_page
    from mmdet_eql.annotations import read_annotations
    from mmdet_eql.evaluation import LVISGroundTruth, read_results
    from mmdet_eql.evaluation.result_mistakes import check_detections
    from mmdet_eql.utils.errors import UserError

    if not 0 < args.iou_thr <= 1:
        raise UserError(f"--iou-thr is {args.iou_thr}; give a number above 0 and up to 1.")
    columns = read_annotations(args.ann_file)
    ground_truth = LVISGroundTruth.from_columns(columns, args.ann_file)
    category = find_category(ground_truth, args.category)
    detections = read_results(args.results, ground_truth, "bbox", args.ann_file)
    check_detections(args.results, ground_truth, detections, args.ann_file)
    errors = find_errors(ground_truth, detections, category, args.iou_thr, args.score_thr)
    paths = [
        osp.join(args.images, columns.path(image, args.images))
        for image in columns.image_id.argsort().tolist()
    ]
    write_error_page(errors, ground_truth.image_ids.tolist(), paths, args.out, args.max_cases)
    print(
        f"{errors.category}: {len(errors.truths):,} annotations, {len(errors.hits):,} found, "
        f"{len(errors.misses):,} missed, {len(errors.false_alarms):,} false alarms\n"
        f"Written to {args.out}"
    )


if __name__ == "__main__":
    run_tool(browse, parse_args())
